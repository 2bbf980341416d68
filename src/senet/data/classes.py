"""Which class of the data is which output of a network: by name, never silently by position."""

from collections.abc import Callable
from dataclasses import replace

from senet.data.datasets import ImageSplit
from senet.data.folders import is_number, listed, warn
from senet.errors import SenetError, nearest


def match_classes(images: ImageSplit, names: tuple[str, ...] | None, num_classes: Callable[[], int]) -> ImageSplit:
    """Return the images with the network's labels and class names; some of its classes are enough.

    Numbers that are the labels themselves, in data without class names, are the network's outputs by definition.

    Args:
        images: with labels.
        names: of the network's outputs, if it has them.
        num_classes: counts the outputs of a network without names.

    Raises:
        SenetError: the data have classes that the network lacks, or nothing says which is which.
    """
    own, source = images.class_names, images.source
    if own == names:
        return images
    numbered = all(is_number(name) for name in own)
    if names and not (numbered and not images.names_of_folders):
        return by_name(images, names)
    count = len(names) if names else num_classes()
    if count != len(own):
        unnamed = "" if names else "; those of a network without class names must be as many: set model.class_names"
        raise SenetError(f"the network has {count} classes, but {source} has {len(own)}{unnamed}")
    if not names and images.names_of_folders:
        order = "of their numbers (torchvision's ImageFolder has 10 before 2)" if numbered else "of their names"
        warn(
            f"the network has no class names: its outputs are taken for the {count} classes of {source} in the order "
            f"{order}, {listed(own)}; set model.class_names if that is wrong"
        )
    return replace(images, class_names=names) if names else images


def by_name(images: ImageSplit, names: tuple[str, ...]) -> ImageSplit:
    """Match the classes of the data with those of the network by name; numbers match by value, "07" with "7"."""
    own, source = images.class_names, images.source
    if all(is_number(name) for name in own) and not any(is_number(name) for name in names):
        if [int(name) for name in own] != list(range(len(names))):
            raise SenetError(
                f"the network's classes have names ({listed(names)}), but those of {source} are numbers "
                f"({listed(own)}); rename the folders, or set data.class_names"
            )
        warn(f"the folders of {source} are numbers, taken for the network's outputs: 0 is {names[0]!r}, and so on")
        return replace(images, class_names=names)
    numbers = all(is_number(name) for name in (*own, *names))
    keys = [int(name) if numbers else name for name in names]
    places = [keys.index(key) if (key := int(name) if numbers else name) in keys else -1 for name in own]
    lacking = [name for name, place in zip(own, places, strict=True) if place < 0]
    if lacking:
        raise SenetError(
            f"the network has no class {lacking[0]!r}, one of {len(lacking)} that only {source} has; "
            f"the nearest are {nearest(lacking[0], names)}"
        )
    for name, place in zip(own, places, strict=True):
        if keys.count(keys[place]) > 1 or places.count(place) > 1:
            raise SenetError(f"the class {name!r} of {source} fits several classes; give each a name of its own")
    if len(own) < len(names):
        warn(
            f"{source} has {len(own)} of the network's {len(names)} classes ({listed(own)}): "
            "accuracy is that of their images, among all classes"
        )
    return images.relabeled(places, names)
