from django.db import migrations

from pgnotifier.contrib.django.durable import UpgradeLog


class Migration(migrations.Migration):
    dependencies = [("pgnotifier_durable", "0002_version_2")]

    operations = [UpgradeLog(3)]
