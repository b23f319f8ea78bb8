"""The pages: the shop's, and the admin's."""

from django.contrib import admin
from django.urls import path

from orders.views import orders

urlpatterns = [path("", orders), path("admin/", admin.site.urls)]
