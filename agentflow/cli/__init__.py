"""The command line: `agentflow COMMAND`. Modules here stay light; heavy imports live inside the commands."""
