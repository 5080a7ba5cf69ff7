"""Flower's PyTorch quickstart as its documentation has it, on our pictures: what thousand_clients.py measures against.

The same structure: FedAvg's `start`; a ClientApp that builds a net, loads the arrays, takes its partition from flwr-datasets, keeps a
fifth of it for testing, trains with SGD over a DataLoader and answers with its state dict; and, as the quickstart comes, a second message
a round that evaluates. The net has the layers of `smile-small` with its projector and as many parameters. Pictures are raw bytes in the
data set, which is cheaper to read than the quickstart's PNGs.
"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.serverapp.strategy.strategy_utils import aggregate_metricrecords
from torch import nn
from torch.utils.data import DataLoader

CHANNELS, CLASSES = 7, 7
DATA = (
    "QUICKSTART_DATA"  # environment variable: folder of the data set, which has the columns `img` and `label`
)
partitions: Any = None  # cached in the process, as the quickstart caches its FederatedDataset
client = ClientApp()
server = ServerApp()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = CHANNELS
        for width in (16, 32, 64, 128):
            layers += [nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.GroupNorm(8, width), nn.GELU()]
            channels = width
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(2048, 128))
        self.projector = nn.Sequential(
            nn.Linear(128, 128), nn.LayerNorm(128), nn.GELU(), nn.Linear(128, 128), nn.Linear(128, 128)
        )
        self.classifier = nn.Linear(128, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 7, H, W) -> (N, CLASSES)."""
        return self.classifier(self.projector(self.features(x)))


def apply_transforms(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """To tensors, normalised."""
    flat = [np.frombuffer(picture, np.uint8).reshape(CHANNELS, -1) for picture in batch["img"]]
    side = int(flat[0].shape[1] ** 0.5)
    batch["img"] = [
        torch.from_numpy(p.reshape(CHANNELS, side, side).astype(np.float32)).sub_(127.5).div_(127.5)
        for p in flat
    ]
    return batch


def load_data(partition_id: int, num_partitions: int, batch_size: int) -> tuple[DataLoader, DataLoader]:
    global partitions
    if partitions is None:
        from datasets import disable_progress_bars, load_from_disk
        from flwr_datasets.partitioner import IidPartitioner

        disable_progress_bars()
        partitions = IidPartitioner(num_partitions=num_partitions)
        partitions.dataset = load_from_disk(os.environ[DATA])
    partition = partitions.load_partition(partition_id)
    both = partition.train_test_split(test_size=0.2, seed=42).with_transform(apply_transforms)
    return DataLoader(both["train"], batch_size=batch_size, shuffle=True), DataLoader(
        both["test"], batch_size=batch_size
    )


def forever(loader: DataLoader) -> Iterator[dict[str, torch.Tensor]]:
    """Epoch after epoch: the number of steps is what is compared."""
    while True:
        yield from loader


@client.train()
def train(message: Message, context: Context) -> Message:
    model, device, settings = opened(message)
    loader, _ = load_data(*place(context), int(settings["batch-size"]))
    criterion = nn.CrossEntropyLoss().to(device)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    model.train()
    running, steps = 0.0, int(settings["steps"])
    for _, batch in zip(range(steps), forever(loader), strict=False):
        pictures, labels = batch["img"].to(device), batch["label"].to(device)
        optimiser.zero_grad()
        loss = criterion(model(pictures), labels)
        loss.backward()
        optimiser.step()
        running += loss.item()
    count: Any = loader.dataset
    metrics = MetricRecord({"train_loss": running / steps, "num-examples": len(count)})
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
    return Message(content, reply_to=message)


@client.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    model, device, settings = opened(message)
    _, loader = load_data(*place(context), int(settings["batch-size"]))
    criterion, loss, correct = nn.CrossEntropyLoss(), 0.0, 0
    model.eval()
    with torch.no_grad():
        for batch in loader:
            pictures, labels = batch["img"].to(device), batch["label"].to(device)
            outputs = model(pictures)
            loss += criterion(outputs, labels).item()
            correct += int((outputs.argmax(1) == labels).sum())
    data: Any = loader.dataset
    figures = {"eval_loss": loss / len(loader), "eval_acc": correct / len(data), "num-examples": len(data)}
    return Message(RecordDict({"metrics": MetricRecord(figures)}), reply_to=message)


def opened(message: Message) -> tuple[Net, torch.device, Any]:
    model = Net()
    model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    return model.to(device), device, message.content.config_records["config"]


def place(context: Context) -> tuple[int, int]:
    return int(context.node_config["partition-id"]), int(context.node_config["num-partitions"])


def counted(replies: list[RecordDict], key: str) -> MetricRecord:
    """Flower's own weighted means, and how many answered."""
    return MetricRecord({**aggregate_metricrecords(replies, key), "clients": len(replies)})


@server.main()
def main(grid: Grid, context: Context) -> None:
    settings: Any = context.run_config
    clients = int(settings["clients"])
    strategy = FedAvg(
        fraction_evaluate=float(settings["evaluate"]),
        min_train_nodes=clients,
        min_available_nodes=clients,
        train_metrics_aggr_fn=counted,
    )
    asked = ConfigRecord({"batch-size": settings["batch-size"], "steps": settings["steps"]})
    start = time.time()
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(Net().state_dict()),
        train_config=asked,
        evaluate_config=asked,
        num_rounds=int(settings["rounds"]),
    )
    output = Path(str(settings["output"]))
    torch.save(result.arrays.to_torch_state_dict(), output)
    rounds = [metrics["clients"] for metrics in result.train_metrics_clientapp.values()]
    record = {"start": start, "end": time.time(), "answers": rounds}
    output.with_suffix(".json").write_text(json.dumps(record))
