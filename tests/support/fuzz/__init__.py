"""What the fuzzer is made of: generators of damaged recipes, rows, adapters and models, a server
that forks a process for each command, and the rules that every command must keep."""
