"""Put together what this machine is, in a few milliseconds: no subprocess, nothing raised, nothing printed.

What can compile an engine takes subprocesses to find out, so it is apart, in `llmrun.hardware.toolchain`.
"""

import sys
from pathlib import Path

from llmrun.hardware.cpu import probe_cpu
from llmrun.hardware.gpu import probe_gpus
from llmrun.hardware.host import probe_container, probe_disk, probe_wsl
from llmrun.hardware.memory import probe_memory
from llmrun.hardware.types import Machine

__all__ = ["probe_machine"]

_SYSTEMS = {"linux": "linux", "darwin": "darwin", "win32": "windows"}


def probe_machine(root: Path = Path("/"), *, disk_folder: Path | None = None) -> Machine:
    """Read this machine.

    Args:
        root: Stands in for `/` in tests.
        disk_folder: Whose disk counts for `disk_free_bytes` (the cache's; it need not exist yet); None: not asked.
    """
    cpu, cpu_problems = probe_cpu(root)
    memory, memory_problems = probe_memory(root)
    gpus, gpu_problems = probe_gpus(root, memory=memory)
    disk_free, disk_problems = probe_disk(disk_folder) if disk_folder is not None else (None, ())
    return Machine(
        system=_SYSTEMS.get(sys.platform, sys.platform),
        python_version=".".join(str(part) for part in sys.version_info[:3]),
        cpu=cpu,
        memory=memory,
        gpus=gpus,
        problems=(*cpu_problems, *memory_problems, *gpu_problems, *disk_problems),
        disk_free_bytes=disk_free,
        container=probe_container(root),
        wsl=probe_wsl(root),
    )
