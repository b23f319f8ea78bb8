from django.db import migrations

from pgnotifier.contrib.django.durable import UpgradeLog


class Migration(migrations.Migration):
    dependencies = [("pgnotifier_durable", "0003_version_3")]

    operations = [UpgradeLog(4)]
