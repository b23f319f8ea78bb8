"""Restore the values in payloads of `notify_on` to the types of the model's fields."""

from collections.abc import Callable, Mapping
from decimal import Decimal, localcontext
from typing import Any
from weakref import WeakKeyDictionary

from django.apps import apps
from django.core.exceptions import FieldDoesNotExist
from django.db.models import DecimalField, Model

Restore = Callable[[Any], Any]

_MOST_DIGITS = 1000
"""The maximum precision of a `numeric` column.

https://www.postgresql.org/docs/current/datatype-numeric.html
"""

_restorers: WeakKeyDictionary[type[Model], dict[str, Restore]] = WeakKeyDictionary()
"""The functions that restore values, by model and column, for types that JSON doesn't have."""


def find_model(payload: Any) -> type[Model] | None:
    """Return the model that a payload of `notify_on` names."""
    if type(payload) is not dict or type(label := payload.get("model")) is not str:
        return None
    try:
        return apps.get_model(label)
    except (LookupError, ValueError):
        return None


def restore_values(model: type[Model] | None, payload: Any) -> None:
    """Convert values of `DecimalField` columns in a payload of `notify_on` to Decimal, in place.

    A list of such payloads, as `batch=` makes it, is converted as well. Their models may differ.
    """
    if type(payload) is list:
        for one in payload:
            if type(one) is dict:
                restore_values(find_model(one), one)
        return
    if model is None:
        return
    restorers = _restorers.get(model)
    if restorers is None:
        restorers = _restorers[model] = _find_restorers(model)
    if not restorers:
        return
    for side in ("old", "new"):
        values = payload.get(side)
        if type(values) is dict:
            _restore(restorers, values)
    keys = [str(field.column) for field in model._meta.pk_fields]
    if len(keys) == 1:
        _restore({"pk": restorers[keys[0]]} if keys[0] in restorers else {}, payload)
    elif type(parts := payload.get("pk")) is list and len(parts) == len(keys):
        named = dict(zip(keys, parts, strict=True))
        _restore(restorers, named)
        payload["pk"] = [*named.values()]


def _restore(restorers: Mapping[str, Restore], values: dict[str, Any]) -> None:
    for name in restorers.keys() & values.keys():
        values[name] = restorers[name](values[name])


def _find_restorers(model: type[Model]) -> dict[str, Restore]:
    fields = {str(field.column): _find_restorer(field) for field in model._meta.concrete_fields}
    return {column: restore for column, restore in fields.items() if restore is not None}


def _find_restorer(field: Any) -> Restore | None:
    while field.remote_field is not None:  # a foreign key has the type of the field it refers to
        try:
            field = field.target_field
        except (FieldDoesNotExist, AttributeError):
            return None
    field = getattr(field, "output_field", field) if getattr(field, "generated", False) else field
    if isinstance(field, DecimalField):
        places = field.decimal_places
        return lambda value: _make_decimal(value, places)
    if (base := getattr(field, "base_field", None)) is not None:  # an ArrayField
        restore = _find_restorer(base)
        return None if restore is None else lambda value: _restore_each(restore, value)
    return None


def _restore_each(restore: Restore, value: Any) -> Any:
    if type(value) is list:
        return [_restore_each(restore, one) for one in value]
    return restore(value)


def _make_decimal(value: Any, places: int | None) -> Any:
    """Return a number as a Decimal with the decimal places of its column, as a query would.

    PostgreSQL writes NaN and infinities as strings, because JSON doesn't have them. A float is
    exact: the payload's decoder returns a Decimal for a number that a float can't hold.
    """
    if type(value) is float:
        made = Decimal(repr(value))
    elif type(value) in (int, Decimal) or value in ("NaN", "Infinity", "-Infinity"):
        made = Decimal(value)
    else:
        return value
    # No column has so many digits. Padding such a number could fill the memory.
    if places is None or not made.is_finite() or abs(made.adjusted()) > _MOST_DIGITS:
        return made
    with localcontext(prec=2 * _MOST_DIGITS + 2):
        padded = made.quantize(Decimal(1).scaleb(-places))
        return padded if padded == made else made  # the column has more places than the field
