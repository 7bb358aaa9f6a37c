"""What looking at requests costs: the decision, the throughput of a core, and large tables on their way to workers.

Invariant: with and without context are measured in the same run, over the same arms, rounds interleaved.
"""

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from statistics import median

from loadtests.contextual import table
from loadtests.figures import Figure
from loadtests.load import Throughput, chat_body, run_wrk
from loadtests.peers import Proxy, Upstream, free_port, nginx_upstream
from loadtests.processes import Child, python_module
from loadtests.product import ROUTE, wait_ready
from loadtests.scenarios.context import Context, Report
from loadtests.scenarios.parts import timed
from optimizer.log.node import StateDirectory
from optimizer.routing import RoutingTable
from optimizer.table_file import TableReader, decode, encode, write_table
from proxy.compiled import CompiledTable
from proxy.compiler import Compiler
from proxy.context import compile_features, extract
from proxy.dispatch import decide
from proxy.envelope import parse
from proxy.http1.client import Pool
from proxy.resilience.breaker import Board
from proxy.selectors import Selectors
from proxy.table_intake import TableIntake

ARMS, FEATURES = 10, 32
ROUTES, ROUTE_ARMS = 100, 20
TABLES = 8


def decision(context: Context) -> Report:
    """``dispatch.decide`` of a contextual route: 10 arms that compete, 32 features, a prompt of 2 KB."""
    state = StateDirectory(context.directory / "state")
    made = table(routes=1, arms=ARMS, directory=state.selector_directory)
    compiled = _compile(state, made)
    side, features = compiled.routes[ROUTE].control, made.routes[0].features
    assert side.contextual is not None
    assert features is not None
    assert features.size == FEATURES
    selector = side.contextual
    envelope = parse("chat", chat_body(2048, model=ROUTE))
    uniform, plan = random.Random(1).random, compile_features(features)
    x = extract(envelope, {}, plan).x
    whole = timed(context, lambda: decide(compiled, envelope, {}, uniform=uniform, guarded=True))
    look = timed(context, lambda: extract(envelope, {}, plan))
    draw = timed(context, lambda: selector.choose(uniform(), selector.full_mask, x))
    context.say(f"decide {whole:.1f} us: features {look:.1f} us, vector and draw {draw:.1f} us")
    name = f"contextual decision p50, {ARMS} arms, d = {FEATURES}"
    return Report(
        (
            Figure(name, draw, "us", note="probabilities of all arms, and the draw"),
            Figure("contextual features p50, 2 KB", look, "us", note="structural features"),
            Figure("contextual decide p50, whole", whole, "us", note="resolve, features, eligibility, draw"),
        )
    )


def tables(context: Context) -> Report:
    """100 routes of 20 arms each: size, publication, parsing, and how long a worker's loop is held."""
    state = StateDirectory(context.directory / "state")
    versions = [
        table(
            routes=ROUTES,
            arms=ROUTE_ARMS,
            directory=state.selector_directory,
            seed=number,
            version=number + 1,
        )
        for number in range(TABLES)
    ]
    data = [encode(made) for made in versions]
    _, pool = decode(data[0])
    publish = median(_ms(lambda made=made: write_table(state.table_file, made)) for made in versions)
    first = median(_ms(lambda: decode(data[0])) for _ in range(20))
    moved = median(_ms(lambda raw=raw: decode(raw, pool)) for raw in data for _ in range(3))
    stall, arrival = asyncio.run(_arrivals(state, versions))
    blobs = sum(path.stat().st_size for path in state.selector_directory.iterdir()) / TABLES
    context.say(f"first read {first:.2f} ms, later {moved:.2f} ms, longest stall {stall:.2f} ms")
    return Report(
        (
            Figure("contextual table: control file", len(data[0]) / 1024, "KB", note="100 routes x 20 arms"),
            Figure("contextual table: blobs", blobs / 1024, "KB", note="read by mapping, one a route"),
            Figure("contextual table: publish", publish, "ms", note="encode, write, fsync, rename"),
            Figure(
                "contextual table: parse", moved, "ms", note="probabilities and indices moved, arms known"
            ),
            Figure("contextual table: first parse", first, "ms", note="2,000 arms that are all new"),
            Figure(
                "contextual table: longest stall",
                stall,
                "ms",
                note="of a worker's loop while such tables come",
            ),
            Figure("contextual table: until in use", arrival, "ms", note="median, the poll apart"),
        )
    )


def throughput(context: Context) -> Report:
    """Requests of one core with and without context, 10 arms each, in the same run."""
    body = context.directory / "body.json"
    body.write_bytes(chat_body(2048))
    with ExitStack() as stack:
        upstream = stack.enter_context(nginx_upstream(context.cores, context.directory))
        proxies = [stack.enter_context(_alone(context, upstream, name)) for name in ("plain", "contextual")]
        runs: dict[str, list[Throughput]] = {proxy.name: [] for proxy in proxies}
        for proxy in proxies:
            run_wrk(proxy, upstream, context.cores, body, seconds=1)
        for number in range(context.rounds):
            for proxy in proxies:
                run = run_wrk(proxy, upstream, context.cores, body, seconds=context.seconds)
                runs[proxy.name].append(run)
                context.say(
                    f"round {number + 1} {proxy.name}: {run.rate:,.0f}/s worker {run.worker_share:.0%}"
                )
    plain, looking = (median(run.capacity for run in runs[name]) for name in ("plain", "contextual"))
    void = "the load side was over 90 %" if any(run.is_load_bound for run in runs["contextual"]) else ""
    return Report(
        (
            Figure(
                "contextual: requests/s of a core", looking, "1/s", note="10 arms, d = 32, 2 KB", void=void
            ),
            Figure("contextual: throughput / context-free", looking / plain, "x", void=void),
        )
    )


@contextmanager
def _alone(context: Context, upstream: Upstream, name: str) -> Iterator[Proxy]:
    """One worker without an optimizer, so that what it draws by stays as it is."""
    port, state = free_port(), context.directory / name
    options = [
        "--state-dir",
        str(state),
        "--port",
        str(port),
        "--upstream",
        upstream.url,
        "--arms",
        str(ARMS),
    ]
    if name == "contextual":
        options.append("--contextual")
    log = context.directory / f"{name}.log"
    command = python_module("loadtests.contextual", *options)
    single = {"OPENBLAS_NUM_THREADS": "1"}  # as ``serve`` starts its workers
    with Child(command, core=context.cores.worker, log=log, name=name, environ=single) as child:
        wait_ready(child, port)
        yield Proxy(name, port, (child.pid,), (), child)


async def _arrivals(state: StateDirectory, versions: list[RoutingTable]) -> tuple[float, float]:
    """The longest that a loop is held while tables arrive, and how long one takes until it is used; milliseconds."""
    loop = asyncio.get_running_loop()
    selectors = Selectors(state.selector_directory)
    used: list[CompiledTable] = []
    write_table(state.table_file, versions[0])
    reader = TableReader(state.table_file)
    intake = TableIntake(reader, selectors, _compiler(loop, selectors), use=used.append, loop=loop)
    intake.take_new()
    longest, times = 0.0, []
    for made in versions[1:]:
        write_table(state.table_file, made)
        begun = last = time.perf_counter()
        intake.poll()
        while used[-1].version != made.version:
            now = time.perf_counter()
            longest, last = max(longest, now - last), now
            await asyncio.sleep(0)
        now = time.perf_counter()
        longest = max(longest, now - last)
        times.append(now - begun)
    intake.close()
    return longest * 1000, median(times) * 1000


def _compiler(loop: asyncio.AbstractEventLoop, selectors: Selectors) -> Compiler:
    return Compiler(
        make_pool=lambda origin: Pool(origin, loop=loop),
        resolve_secret=lambda _: None,
        retire=lambda pool: pool.close(),
        unit_secret=b"loadtests",
        board=Board(clock=time.perf_counter, uniform=random.Random(1).random),
        selectors=selectors,
    )


def _compile(state: StateDirectory, made: RoutingTable) -> CompiledTable:
    selectors = Selectors(state.selector_directory)
    selectors.learn(selectors.load(selectors.missing(made)))
    loop = asyncio.new_event_loop()
    try:
        return _compiler(loop, selectors).compile(made)
    finally:
        loop.close()


def _ms(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return (time.perf_counter() - begun) * 1000
