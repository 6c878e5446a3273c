"""A document with one of everything, and with names that would be markup if they were not escaped."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure as MatplotlibFigure

from gnn_moe.figures.style import BLACK, BLUE, GREEN, VERMILLION, new_figure, style_axes
from gnn_moe.reports.document import (
    Bullets,
    Cell,
    Code,
    Column,
    Document,
    Figure,
    Paragraph,
    Section,
    Span,
    Table,
)

NASTY = (
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(2)>",
    "\"quotes\" & 'more' &lt;",
    "a|b\\|c `code` [x](javascript:alert(3)) *s* _e_ ~~d~~ $m$",
    "two\nlines\r\nand\ttab",
    "Größe Θ 専門家 😀",
    "{{ 7 * 7 }} {% raw %}",
    "x" * 70,
)
ARMS = (("GNN", BLUE, "solid"), ("HGNN all_pairs", VERMILLION, "dash"), ("attention", GREEN, "dot"))
STEPS = np.arange(50, 2050, 50)


def sample(title: str = "Experts that talk: GNN against HGNN") -> Document:
    return Document(
        title=title,
        subtitle="Study comparison, 15 runs of 3 arms, evaluated on all of the validation text",
        sections=(_findings(), _tables(), _figures(), _names()),
    )


def _findings() -> Section:
    run = Span("run 3", href="runs/study (1)/arm=GNN,seed=3")
    return Section(
        title="In one minute",
        anchor="one-minute",
        blocks=(
            Paragraph(
                (
                    "HGNN reaches ",
                    Span("4.812 nats a token", strong=True),
                    " [4.790, 4.834] over 5 seeds, 0.021 under GNN, an interval without zero. The best is ",
                    run,
                    ", see ",
                    Span("the tables", href="#tables"),
                    ".",
                )
            ),
            Bullets(
                (
                    "Four experts cost 1.7 times the minutes of two and gain 0.04 nats.",
                    ("The flag ", Span("--num_experts", code=True), " was not swept beyond 16."),
                )
            ),
            Code(
                "gnn-moe train --coupler_type HGNN --num_experts 4 --embed_dim 256 --num_layers 4 "
                "--learning_rate 0.0005 \\\n  --hyperedge_strategy all_pairs --run_name best"
            ),
            Paragraph("Three of the five seeds ended early; their curves are shown to the end.", kind="note"),
            Paragraph("One seed a value: no interval can be given.", kind="warning"),
        ),
    )


def _tables() -> Section:
    values = [
        (2, 5.0123, "best"),
        (4, 4.95, ""),
        (8, None, "failed"),
        (16, 1.02e22, "diverged"),
        (32, float("nan"), "non-finite"),
    ]
    narrow = Table(
        caption="Loss by number of experts",
        columns=(
            Column(title="num_experts", explains="experts in each layer"),
            Column(title="eval loss", explains="nats a token, the mean of the seeds"),
            Column(title="remark", numeric=False),
        ),
        rows=tuple(
            (Cell(str(count), count), Cell("–" if loss is None else f"{loss:.5g}", loss), Cell(remark))
            for count, loss, remark in values
        ),
        notes=(("Seeds 1 to 5; ", Span("protocol", href="#names"), "."),),
    )
    titles = "eval loss,interval,perplexity,bits a byte,minutes,parameters,non-embedding,FLOPs,tokens/s,peak MB,seeds"
    wide = Table(
        caption="Every swept value with what it costs, the best marked only where its interval excludes the others",
        columns=(Column(title="value", numeric=False), *(Column(title=title) for title in titles.split(","))),
        rows=tuple(
            (
                Cell(Span(f"learning_rate {rate}", href=f"runs/lr {rate}")),
                *(Cell(f"{rate * (column + 1) * 1e4:,.3f}", rate * (column + 1)) for column in range(11)),
            )
            for rate in (0.0001, 0.0003, 0.001, 0.003)
        ),
    )
    return Section(
        title="Tables",
        anchor="tables",
        sections=(
            Section(title="Number of experts", anchor="experts", blocks=(narrow,)),
            Section(title="Learning rate", anchor="learning-rate", blocks=(wide,)),
        ),
    )


def _curves() -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
    return {name: 4.8 + 0.1 * n + 300 / (STEPS + 90.0) for n, (name, _colour, _dash) in enumerate(ARMS)}


def _draw_curves() -> MatplotlibFigure:
    figure = new_figure(7, 4)
    axes = figure.subplots()
    for (name, colour, _dash), style in zip(ARMS, ("-", "--", ":"), strict=True):
        axes.plot(STEPS, _curves()[name], style, color=colour, label=name)
    axes.legend(fontsize=8)
    style_axes(axes, "Loss over steps", x_label="step", y_label="nats a token")
    return figure


def _draw_map() -> MatplotlibFigure:
    figure = new_figure(4, 4)
    axes = figure.subplots()
    axes.imshow(np.arange(16).reshape(4, 4) / 16, cmap="cividis")
    axes.set_title("Adjacency", loc="left", fontsize=9)
    return figure


def _figures() -> Section:
    lines: list[dict[str, Any]] = [
        {"type": "scatter", "mode": "lines", "name": name, "x": STEPS, "y": _curves()[name]}
        | {"line": {"color": colour, "dash": dash}}
        for name, colour, dash in ARMS
    ]
    band: dict[str, Any] = {
        "x": [*STEPS, *STEPS[::-1]],
        "y": [*(_curves()["GNN"] + 0.1), *(_curves()["GNN"] - 0.1)[::-1]],
    }
    band |= {"type": "scatter", "fill": "toself", "fillcolor": "rgba(0,114,178,0.2)", "line": {"width": 0}}
    band |= {"hoverinfo": "skip", "name": "95 % interval"}
    seeds: dict[str, Any] = {"type": "scatter", "mode": "markers", "name": NASTY[0], "marker": {"color": BLACK}}
    seeds |= {"x": [500, 1000, 1500], "y": [5.6, float("nan"), 5.1]}
    axes = {"xaxis": {"title": {"text": "step"}}, "yaxis": {"title": {"text": "nats a token"}}}
    return Section(
        title="Curves",
        anchor="curves",
        blocks=(
            Paragraph("Bands are 95 % t intervals over the seeds of an arm."),
            Figure(
                name="loss-curves",
                caption="Evaluation loss over steps; bands are 95 % intervals.",
                description="Three falling curves that end at 4.9 (GNN), 5.0 (HGNN) and 5.1 (attention) nats.",
                draw=_draw_curves,
                chart={"data": [band, *lines, seeds], "layout": axes},
            ),
            Figure(
                name="adjacency",
                caption="The final adjacency, rows receive.",
                description="A map of four by four experts that grows lighter downwards.",
                draw=_draw_map,
            ),
        ),
    )


def _names() -> Section:
    return Section(
        title="Names & <b>markup</b>",
        anchor="names",
        blocks=(
            *(Paragraph(("Named ", Span(name), ", ", Span(name, code=True), ".")) for name in NASTY),
            Bullets(NASTY),
            Code("\n".join(NASTY)),
            Table(
                caption=f"Of {NASTY[0]}",
                columns=(Column(title=NASTY[1], numeric=False, explains=NASTY[2]), Column(title=NASTY[3])),
                rows=tuple(
                    (Cell(Span(name, href=f"runs/{name}", strong=True)), Cell(Span(name, code=True))) for name in NASTY
                ),
                notes=NASTY,
            ),
        ),
    )
