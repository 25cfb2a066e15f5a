"""`python -m agentflow.postgres PROGRAM ...`: psql, pg_dump or pg_restore on the database in force.

The embedded server is started if need be and its own programs are used, so that versions fit; for a server of yours the
programs come from PATH. The schema is left as it is.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

import psycopg

from agentflow.errors import AgentFlowError, UsageError
from agentflow.postgres.connect import DatabaseHandle, database, libpq_url
from agentflow.settings import load_settings

PROGRAMS = ("psql", "pg_dump", "pg_restore")


def main(arguments: Sequence[str]) -> int:
    """Run one client program; its exit code, or ours when it could not be run."""
    try:
        if not arguments or arguments[0] not in PROGRAMS:
            raise UsageError(f"usage: python -m agentflow.postgres {{{','.join(PROGRAMS)}}} [ARGUMENT ...]")
        with database(load_settings()) as handle:
            program = handle.embedded.program(arguments[0]) if handle.embedded is not None else arguments[0]
            return subprocess.run(
                [program, *arguments[1:]], check=False, env=os.environ | _environment(handle)
            ).returncode
    except AgentFlowError as error:
        sys.stderr.write(f"error: {error.message}\n" + (f"hint: {error.hint}\n" if error.hint else ""))
        return error.exit_code
    except FileNotFoundError:
        sys.stderr.write(f"error: {arguments[0]} is not installed\n")
        return 1


def _environment(handle: DatabaseHandle) -> dict[str, str]:
    """The address as libpq's variables: an argument would show the password to everybody on the machine."""
    names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"}
    names |= {"sslmode": "PGSSLMODE", "sslrootcert": "PGSSLROOTCERT"}
    parts = psycopg.conninfo.conninfo_to_dict(libpq_url(handle.url))
    return {names[name]: str(value) for name, value in parts.items() if name in names}


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
