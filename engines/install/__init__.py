"""Put an engine into the environment that llmrun runs in, built or chosen for this machine.

llama-cpp is compiled here (`llama_cpp`): the compiler and the instruction sets decide its speed, up to four times. The
others come as ready packages (`packages`). Everything that decides is pure and tested as tables; everything that runs
a program goes through `commands`.
"""
