"""What a study did, in sentences: how images are resized, learning rates searched, arms trained and tested."""

from collections.abc import Iterator

from thaw.images.preprocessing import Preprocessing, covered, sides
from thaw.recipe import Augment, Recipe, Search, Train
from thaw.run.metrics import METRICS, ImageFacts, Metrics
from thaw.text import count, listed, percent, rate

OPTIMIZERS = {"adam": "Adam", "adamw": "AdamW", "sgd": "SGD with momentum 0.9"}
POLICIES = {
    "flip": "each image or its mirror image",
    "crop": "random parts of each image, mirrored or not",
    "strong": "random parts of each image, mirrored or not, with a random change of colour or shape and now and then a "
    "rectangle erased",
}


def resizing(images: ImageFacts) -> str:
    """How an image comes to the size that the network sees, as the beginning of a sentence."""
    high, wide = sides(images.size)
    square = "" if high == wide else " (height by width)"
    if images.resize == "squash":
        if high == wide:
            return f"Both sides of each image are brought to {high} pixels, its aspect ratio not kept"
        return f"Each image is brought to {high} by {wide} pixels{square}, its aspect ratio not kept"
    if images.resize == "letterbox":
        return (
            f"Each image is scaled until it just fits inside {high} by {wide} pixels{square}, its aspect ratio kept, "
            "and padded evenly with the mean colour"
        )
    tall, broad = covered(Preprocessing(**images.model_dump(exclude={"decode"})))
    if high == wide:
        scaled = f"The shorter side of each image is brought to {tall} pixels"
    else:
        scaled = f"Each image is scaled until it just covers {tall} by {broad} pixels{square}"
    return f"{scaled} and the middle {high} by {wide} cut out, its aspect ratio kept"


def training(recipe: Recipe, metrics: Metrics) -> str:
    """How every arm is searched, trained and tested, as a paragraph."""
    tested = "The test set is scored once, at the end"
    if recipe.augment.test_views > 1:
        tested += ", by the mean of the logits of each image and its mirror image"
    if all(it.fit for it in metrics.arms.values()):
        return f"Every arm has the same data, and nothing of it is trained by steps. {tested}."
    budget = "the same budget" if recipe.train.budget == "equal" else "what it needs, as its own settings say"
    own = [f"{arm}: {_settings(it.training)}" for arm, it in recipe.arms.items() if it.training]
    sentences = [
        f"Every arm has the same data and {budget}.",
        *_searching(recipe.search, recipe.train),
        *_final(recipe.train),
        *([f"Settings of their own: {'; '.join(own)}."] if own else []),
        f"{tested}.",
    ]
    return " ".join(sentences)


def views(augment: Augment, train: Train) -> str:
    """What training sees of an image besides itself; empty for nothing."""
    if augment.policy == "none":
        return ""
    repeated = train.epochs == "auto" or augment.views < train.epochs
    drawn = f"{count(augment.views, 'view')} of each, drawn once and shared by all arms, learning rates and seeds"
    told = (
        "That is fewer than the epochs, so that views repeat: a finite set, not random augmentation"
        if repeated
        else "No view comes twice in a training, which is random augmentation"
    )
    return f"Training sees {POLICIES[augment.policy]}: {drawn}. {told}."


def _searching(search: Search, train: Train) -> Iterator[str]:
    """How the learning rate is found."""
    metric = METRICS[search.metric]
    steps = f"{count(search.steps, 'step')} of {train.batch_size} images on train"
    if search.method == "halving":
        low, high = search.range
        yield (
            f"{count(search.candidates, 'learning rate')} from {rate(low)} to {rate(high)} are tried for {steps}; the "
            f"better half goes on with twice the steps, and so on to the last one, by {metric} on validation "
            "(successive halving)."
        )
    else:
        rates = listed([rate(one) for one in search.learning_rates])
        one = len(search.learning_rates) == 1
        yield (
            f"The learning rate {rates} is tried for {steps}."
            if one
            else f"Each of the learning rates {rates} is tried for {steps}, and the best {metric} on validation wins."
        )
    if search.ties == "noise":
        yield (
            "Those that the validation images cannot tell from the best count as equally good: of these the lowest "
            "loss wins, then the rate in the middle."
        )
    if search.max_steps:
        yield (
            f"Where none answers better than the class frequencies, beyond chance, all are tried again for twice the "
            f"steps, up to {search.max_steps}{' or those of the training' if search.schedule == 'train' else ''}."
        )
    if search.weight_decays:
        decays = listed([f"{decay:g}" for decay in search.weight_decays])
        yield f"At the rate found, the weight decays {decays} are tried in the same way."
    if search.schedule == "train" and (train.schedule == "cosine" or train.warmup):
        yield "Within an attempt the rate rises and falls as it does in training."


def _final(train: Train) -> Iterator[str]:
    """How an arm is trained at the rate found."""
    details = [
        f"weight decay {train.weight_decay:g}" if train.weight_decay else "",
        "a rate that falls along half a cosine" if train.schedule == "cosine" else "",
        f"warm-up over {percent(train.warmup, 0)} of the steps" if train.warmup else "",
        f"label smoothing {train.label_smoothing:g}" if train.label_smoothing else "",
        "classes weighted by the inverse of their fraction" if train.class_weights == "balanced" else "",
        "each class drawn as often as the others" if train.sampling == "balanced" else "",
        f"gradients shortened to {train.clip:g}" if train.clip else "",
        f"{train.mix} of images and labels" if train.mix != "none" else "",
    ]
    told = listed([OPTIMIZERS[train.optimizer], *filter(None, details)])
    refit = train.refit == "train+validation"
    where = "train and validation together" if refit else "train"
    upto = "up to " if train.patience else ""
    epochs = f"{train.epochs} epoch{'' if train.epochs == 1 else 's'}"
    yield f"Then the arm starts again and trains for {upto}{epochs} on {where} with {told}."
    if train.rehearses:
        yield (
            "Before that it trains in the same way on train alone, which gives the curves on validation and the "
            "temperature of the probabilities."
        )
    if train.patience:
        yield f"It stops when {count(train.patience, 'epoch')} in a row bring nothing better on validation."
    if train.keep == "best" or train.patience:
        yield "The epoch with the best score on validation is kept."
    elif train.keep == "average":
        yield "The mean of the weights over the last quarter of the epochs is kept."


def _settings(values: dict[str, object]) -> str:
    return listed([f"{key} = {value}" for key, value in values.items()])
