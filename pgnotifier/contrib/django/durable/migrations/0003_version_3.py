from django.db import migrations

from pgnotifier.contrib.django.durable import UpgradeLog


class Migration(migrations.Migration):
    dependencies = [("pgnotifier_durable", "0002_version_2")]

    operations = [
        UpgradeLog(3),
        migrations.CreateModel(
            name="Outbox",
            fields=[],
            options={
                "verbose_name_plural": "outboxes",
                "proxy": True,
                "managed": False,
                "default_permissions": ("view", "change", "delete"),
                "indexes": [],
                "constraints": [],
            },
            bases=("pgnotifier_durable.durablesubscription",),
        ),
    ]
