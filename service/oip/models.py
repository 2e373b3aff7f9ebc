"""Lookup of the model that a path of the protocol names."""

from service.oip.errors import UnknownModel
from service.repository.repository import Repository
from service.repository.served_model import ServedModel


def served_model(repository: Repository, argument: str) -> ServedModel:
    """Return the version of a model that NAME or NAME/VERSION refers to.

    Raises:
        UnknownModel: It is not in service.
    """
    name, _, version = argument.partition("/")
    model = repository.models.get(name)
    if version and model is not None and str(model.card.version) != version:
        is_number = version.isdigit() and len(version) < 20
        model = repository.find_version(name, int(version)) if is_number else None
    if model is None:
        raise UnknownModel(name, version or None)
    return model
