"""The URLs of the shop's page and of the admin."""

from django.contrib import admin
from django.urls import path

from orders.views import orders

urlpatterns = [path("", orders), path("admin/", admin.site.urls)]
