from django.db import migrations

from pgnotifier.contrib.django.durable import InstallLog


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [InstallLog(1)]
