"""The migrations of the durable log: one for each version, in every way that projects use them."""

import re
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
from django.apps import apps
from django.core.management import call_command
from django.db import connection, connections, migrations
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.optimizer import MigrationOptimizer
from django.db.migrations.state import ProjectState
from django.db.migrations.writer import MigrationWriter

from pgnotifier import durable
from pgnotifier.contrib.django.durable import InstallLog, UpgradeLog
from pgnotifier.contrib.django.durable import migrations as ours

APP = "pgnotifier_durable"
MISSING = """
Version {version} of the log's schema has no migration. Write
pgnotifier/contrib/django/durable/migrations/{version:04}_version_{version}.py:

from django.db import migrations

from pgnotifier.contrib.django.durable import UpgradeLog


class Migration(migrations.Migration):
    dependencies = [("pgnotifier_durable", "{before}")]

    operations = [UpgradeLog({version})]
"""


class LogRouter:
    """Allows the log in the second database."""

    def allow_migrate(self, db, app_label, **_):
        """Return whether an app's tables belong in a database."""
        return (app_label == APP) == (db == "second")


def names():
    """Return the names of the app's migrations, in order."""
    return sorted(one.stem for one in Path(ours.__path__[0]).glob("0*.py"))


def output_of(*arguments, **options):
    """Return what a command prints."""
    out = StringIO()
    call_command(*arguments, stdout=out, **options)
    return out.getvalue()


def installed(alias="default"):
    """Return the version of the log in a database; None if there is none."""
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT to_regclass('pgnotifier.installed') IS NOT NULL")
        if not cursor.fetchone()[0]:
            return None
        cursor.execute("SELECT version FROM pgnotifier.installed")
        return cursor.fetchone()[0]


@pytest.fixture
def without_log(transactional_db):
    """Have the log dropped; afterwards it is there again."""
    call_command("migrate", APP, "zero", verbosity=0)
    yield
    call_command("migrate", APP, verbosity=0)
    assert installed() == durable.VERSION


def test_each_version_has_a_migration():
    """Each version of the schema has a migration, which brings the log from the one before."""
    made = {}
    for name, migration in MigrationLoader(None).disk_migrations.items():
        for one in migration.operations if name[0] == APP else ():
            if isinstance(one, InstallLog | UpgradeLog):
                made[one.version] = name[1], one.since
    before = None
    for version in range(1, durable.VERSION + 1):
        assert version in made, MISSING.format(version=version, before=before)
        before, since = made[version]
        assert since == version - 1
        assert before.startswith(f"{version:04}_")
    assert max(made) == durable.VERSION


def test_no_migration_is_missing(db):
    """`makemigrations` has nothing to add to the app."""
    call_command("makemigrations", APP, check=True, verbosity=0)


def test_each_migration_pins_its_version(without_log):
    """Each migration brings the log to its own version and no further."""
    for version, name in enumerate(names(), 1):
        call_command("migrate", APP, name, verbosity=0)
        assert installed() == version


def test_back_to_an_earlier_version(transactional_db):
    """Going back keeps a newer schema, with its entries, and going forward again is fine."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pgnotifier.publish('kept', '1')")
    call_command("migrate", APP, "0001", verbosity=0)
    assert installed() == durable.VERSION
    call_command("migrate", APP, verbosity=0)
    with connection.cursor() as cursor:
        cursor.execute("SELECT payload FROM pgnotifier.log WHERE channel = 'kept'")
        assert cursor.fetchall() == [("1",)]
        cursor.execute("TRUNCATE pgnotifier.log")


def test_the_plan(without_log):
    """`migrate --plan` says which version each migration installs, and what the reverse does."""
    plan = output_of("migrate", APP, plan=True)
    assert "Install version 1 of pgnotifier's durable log" in plan
    for version in range(2, durable.VERSION + 1):
        assert f"Upgrade pgnotifier's durable log to version {version}" in plan


def test_as_sql(without_log):
    """What `sqlmigrate` prints for each migration does the same as `migrate`."""
    for version, name in enumerate(names(), 1):
        script = output_of("sqlmigrate", APP, name)
        assert ("CREATE SCHEMA pgnotifier" in script) is (version == 1)
        with connections["default"].cursor() as cursor:
            cursor.connection.execute(script.encode())
        assert installed() == version
    for name in reversed(names()):
        script = output_of("sqlmigrate", APP, name, backwards=True)
        with connections["default"].cursor() as cursor:
            cursor.connection.execute(script.encode())
    assert installed() is None


@pytest.mark.django_db(databases=["default", "second"], transaction=True)
def test_routers_decide():
    """`migrate` on a database that the router doesn't allow installs nothing there."""
    call_command("migrate", APP, database="second", verbosity=0)
    assert installed("second") is None
    assert installed("default") == durable.VERSION


@pytest.mark.django_db(databases=["default", "second"], transaction=True)
def test_on_another_database(settings):
    """Where the router allows it, `migrate --database` installs the log, its reverse drops it."""
    settings.DATABASE_ROUTERS = ["test_log_migrations.LogRouter"]
    # Migrations are noted as applied also where the router had them do nothing.
    call_command("migrate", APP, "zero", database="second", fake=True, verbosity=0)
    call_command("migrate", APP, database="second", verbosity=0)
    assert installed("second") == durable.VERSION
    call_command("migrate", APP, "zero", database="second", verbosity=0)
    assert installed("second") is None
    assert installed("default") == durable.VERSION
    call_command("migrate", APP, database="second", fake=True, verbosity=0)


def test_other_databases_than_postgresql(settings):
    """On SQLite, the migrations do nothing."""
    settings.DATABASE_ROUTERS = []
    lite = SimpleNamespace(vendor=connections["lite"].vendor, alias="lite")  # without a cursor
    editor = SimpleNamespace(connection=lite, collect_sql=False)
    for operation in (InstallLog(1), UpgradeLog(2)):
        operation.database_forwards(APP, editor, None, None)
        operation.database_backwards(APP, editor, None, None)


@pytest.mark.parametrize("modules", [{APP: None}, {APP: None, "shop": None}], ids=str)
def test_without_migrations(without_log, settings, modules):
    """If MIGRATION_MODULES disables the migrations, as for tests, `migrate` installs the log."""
    settings.MIGRATION_MODULES = modules
    for _ in range(2):
        call_command("migrate", run_syncdb=True, verbosity=0)
        assert installed() == durable.VERSION


@pytest.mark.django_db(databases=["default", "second"], transaction=True)
def test_without_migrations_routers_decide(settings):
    """Also then, nothing is installed where the router doesn't allow it, or on SQLite."""
    settings.MIGRATION_MODULES = {APP: None}
    call_command("migrate", run_syncdb=True, database="second", verbosity=0)
    assert installed("second") is None


def test_migrations_of_the_project_s_own(without_log, settings, tmp_path, monkeypatch):
    """MIGRATION_MODULES with migrations of the project are executed, and nothing else."""
    package = tmp_path / "log_migrations"
    package.mkdir()
    (package / "__init__.py").touch()
    migration = type("Migration", (migrations.Migration,), {"operations": [InstallLog(1)]})
    made = MigrationWriter(migration("0001_log", APP))
    (package / "0001_log.py").write_text(made.as_string())
    monkeypatch.syspath_prepend(tmp_path)
    settings.MIGRATION_MODULES = {APP: "log_migrations"}
    call_command("migrate", APP, verbosity=0)
    assert installed() == 1
    call_command("migrate", APP, "zero", verbosity=0)
    assert installed() is None


def test_operations_in_a_migration_s_source():
    """Operations are written with what they were made with."""
    for operation in (InstallLog(1), UpgradeLog(3, since=1)):
        written, imports = migrations.writer.OperationWriter(operation, indentation=0).serialize()
        assert re.sub(r"\s+", "", written).startswith(
            f"pgnotifier.contrib.django.durable.operations.{type(operation).__name__}("
        )
        namespace = {}
        exec("\n".join(sorted(imports)), namespace)
        again = eval(written.rstrip(","), namespace)
        assert (again.since, again.version) == (operation.since, operation.version)


def test_squashing():
    """An installation and its upgrades become one; others stay as they are."""
    optimize = MigrationOptimizer().optimize
    (one,) = optimize([InstallLog(1), UpgradeLog(2), UpgradeLog(3)], "shop")
    assert (type(one), one.version) == (InstallLog, 3)
    (one,) = optimize([UpgradeLog(2), UpgradeLog(3)], "shop")
    assert (type(one), one.version, one.since) == (UpgradeLog, 3, 1)
    assert len(optimize([InstallLog(1), UpgradeLog(3)], "shop")) == 2
    assert len(optimize([InstallLog(1), migrations.RunSQL("SELECT 1")], "shop")) == 2


def test_a_test_database_s_data_is_kept(transactional_db):
    """`flush`, with which Django empties test databases, leaves the log alone."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pgnotifier.publish('kept', '1')")
        call_command("flush", interactive=False, verbosity=0)
        cursor.execute("SELECT count(*) FROM pgnotifier.log WHERE channel = 'kept'")
        assert cursor.fetchone() == (1,)
        cursor.execute("TRUNCATE pgnotifier.log")


def test_dumping_data(without_log):
    """`dumpdata` neither needs the log nor writes any of it, as `loaddata` couldn't load it."""
    assert output_of("dumpdata", APP).strip() == "[]"
    assert output_of("dumpdata", APP, use_base_manager=True).strip() == "[]"


def test_models_have_no_tables(db):
    """Django's state has the models, and creates no table for them."""
    state = MigrationExecutor(connection).loader.project_state()
    assert isinstance(state, ProjectState)
    assert {name for label, name in state.models if label == APP} == {
        "deadletter",
        "durablesubscription",
        "outbox",
    }
    for model in apps.get_app_config(APP).get_models():
        assert not model._meta.managed
        assert list(model.objects.all()) == []
