"""The shop's page."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render

from audit.models import Entry
from orders.models import Order


def orders(request: HttpRequest) -> HttpResponse:
    """Show the orders and their history, and accept new ones."""
    if request.method == "POST":
        Order.objects.create(item=request.POST["item"])
        return redirect("/")
    context = {"orders": Order.objects.order_by("pk"), "entries": Entry.objects.order_by("pk")}
    return render(request, "orders/orders.html", context)
