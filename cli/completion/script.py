"""The scripts that shells read. They are Typer's, but for bash, which takes the colon in a model's tag for a break."""

__all__ = ["SHELLS", "VARIABLE", "completion_script"]

SHELLS = ("bash", "zsh", "fish", "powershell")
VARIABLE = "_LLMRUN_COMPLETE"

# The line up to the cursor is passed on as it is, so that `name:tag` stays one word; -1 means the last one. Bash
# replaces only what follows the last colon, so what stands before it is taken off the answers.
_BASH = """_llmrun_completion() {
    local IFS=$'\\n' line="${COMP_LINE:0:COMP_POINT}" word answer
    word="${line##*[[:space:]]}"
    [[ -n $word ]] || line+='""'
    COMPREPLY=()
    while read -r answer; do
        [[ -z $answer ]] || COMPREPLY+=( "$answer" )
    done < <( COMP_WORDS="$line" COMP_CWORD=-1 _LLMRUN_COMPLETE=complete_bash "$1" 2>/dev/null )
    if [[ $word == *:* && $COMP_WORDBREAKS == *:* ]]; then
        word="${word%"${word##*:}"}"
        COMPREPLY=( "${COMPREPLY[@]#"$word"}" )
    fi
}
complete -o default -F _llmrun_completion llmrun
"""


def completion_script(shell: str) -> str:
    """Return the script for one of `SHELLS`."""
    if shell == "bash":
        return _BASH
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    return str(get_completion_script(prog_name="llmrun", complete_var=VARIABLE, shell=shell)) + "\n"
