"""The databases on a PostgreSQL server of the user's own: is it there, and does it have what we need?"""

from deployments.stack.plan import StackError
from deployments.stack.postgres import DATABASES
from trimtab.config.settings import Settings


def connection_problem(settings: Settings) -> str | None:
    """Why the user's PostgreSQL cannot be used, or None when it can."""
    import psycopg

    if settings.postgres_url is None:
        return "TRIMTAB_POSTGRES_URL is not set"
    try:
        with psycopg.connect(settings.postgres_url.get_secret_value(), connect_timeout=5) as connection:
            connection.execute("select 1")
    except psycopg.Error as error:
        return str(error).strip().splitlines()[-1]
    return None


def prepare(settings: Settings) -> None:
    """Create the databases that are missing; raise a StackError with the SQL to run if we may not."""
    import psycopg
    from psycopg import sql

    if settings.postgres_url is None:
        return
    trouble = connection_problem(settings)
    if trouble:
        raise StackError(f"the PostgreSQL server of TRIMTAB_POSTGRES_URL does not let us in: {trouble}")
    with psycopg.connect(settings.postgres_url.get_secret_value(), autocommit=True) as connection:
        have = {row[0] for row in connection.execute("select datname from pg_database").fetchall()}
        for name in DATABASES:
            if name in have:
                continue
            try:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
            except psycopg.errors.DuplicateDatabase:
                continue
            except psycopg.Error as error:
                missing = " ".join(f"CREATE DATABASE {name};" for name in DATABASES if name not in have)
                raise StackError(
                    f"the database {name} is missing and may not be created ({str(error).strip()}); "
                    f"have an administrator run: {missing}"
                ) from error
