from django.db import migrations, models

from pgnotifier.contrib.django.durable import InstallLog


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        InstallLog(1),
        migrations.CreateModel(
            name="DeadLetter",
            fields=[
                (
                    "n",
                    models.BigIntegerField(
                        primary_key=True, serialize=False, verbose_name="number"
                    ),
                ),
                ("entry", models.BigIntegerField(db_column="id")),
                ("published_at", models.DateTimeField(db_column="at")),
                ("channel", models.TextField()),
                ("key", models.TextField(null=True)),
                ("payload", models.TextField()),
                ("attempts", models.IntegerField()),
                ("retry_at", models.DateTimeField()),
                ("error", models.TextField(null=True)),
                ("traceback", models.TextField(null=True)),
                ("failed_at", models.DateTimeField()),
                ("dead", models.BooleanField()),
            ],
            options={
                "db_table": 'pgnotifier"."failed',
                "managed": False,
                "default_permissions": ("view", "change", "delete"),
                "base_manager_name": "objects",
            },
        ),
        migrations.CreateModel(
            name="DurableSubscription",
            fields=[
                (
                    "sub",
                    models.IntegerField(primary_key=True, serialize=False, verbose_name="number"),
                ),
                ("name", models.TextField(verbose_name="subscription")),
                ("channel", models.TextField()),
                ("at", models.DateTimeField(verbose_name="since")),
            ],
            options={
                "db_table": 'pgnotifier"."subscription',
                "managed": False,
                "default_permissions": ("view", "change", "delete"),
                "base_manager_name": "objects",
            },
        ),
    ]
