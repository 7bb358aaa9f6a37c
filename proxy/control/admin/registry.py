"""Every admin endpoint: one line each. What is not marked otherwise asks for the admin key."""

from typing import Final

from proxy.control.access import Reach
from proxy.control.admin import (
    audit,
    cluster,
    configuration,
    decisions,
    densities,
    feedback,
    health,
    history,
    judges,
    keys,
    leases,
    live,
    openapi,
    optimization_list,
    optimizations,
    requests,
    savings,
    summary,
)
from proxy.control.admin import models as m
from proxy.control.admin import models_cluster as mc
from proxy.control.admin import models_live as live_models
from proxy.control.admin import models_page as page_models
from proxy.control.admin.endpoint import About, Endpoint, Handler
from proxy.control.admin.models_judges import JudgesAnswer

_OPTIMIZE: Final = "/api/v1/optimize"
_ONE: Final = _OPTIMIZE + "/{optimization_id}"
_AGAIN: Final = ("Idempotency-Key", "If-Match")
_REFUSALS: Final = (404, 409, 412, 413, 503, 504)


def _command(
    verb: str, handler: Handler, summary: str, asks: type[m.CommandRequest], answers: type[m.Answer]
) -> Endpoint:
    about = About(
        summary,
        answers,
        asks,
        optional_body=True,
        success=(200, 202) if verb == "deploy" else (200,),
        headers=_AGAIN,
        also=_REFUSALS,
    )
    return Endpoint("POST", f"{_ONE}/{verb}", handler, about)


_OPENAPI: Final = About("This document", media="application/json")

ENDPOINTS: Final = (
    Endpoint(
        "GET",
        "/health/detailed",
        health.detailed,
        About("States of all components; an operator also sees figures", live_models.HealthAnswer),
        Reach.HEALTH,
    ),
    Endpoint(
        "GET", "/metrics", health.metrics, About("Prometheus metrics", media="text/plain"), Reach.METRICS
    ),
    Endpoint(
        "POST",
        "/v1/feedback",
        feedback.post,
        About("Rate answers", live_models.FeedbackAnswer, live_models.FeedbackRequest, also=(404,)),
        Reach.DATA,
    ),
    Endpoint(
        "POST",
        _OPTIMIZE,
        optimizations.create,
        About(
            "Make an optimization",
            m.OptimizationAnswer,
            m.CreateRequest,
            success=(201,),
            headers=("Idempotency-Key",),
            also=(409, 413, 503, 504),
        ),
    ),
    Endpoint(
        "GET",
        _OPTIMIZE,
        optimization_list.listing,
        About("List optimizations", m.OptimizationsAnswer, query=m.ListQuery, also=(503,)),
    ),
    Endpoint(
        "GET",
        _ONE,
        optimizations.show,
        About("Show an optimization", m.OptimizationAnswer, headers=("If-None-Match",), also=(304, 404, 503)),
    ),
    Endpoint(
        "DELETE",
        _ONE,
        optimizations.delete,
        About(
            "Delete an optimization", m.DeletionAnswer, query=m.CommandRequest, headers=_AGAIN, also=_REFUSALS
        ),
    ),
    _command("deploy", optimizations.deploy, "Deploy the proposal", m.DeployRequest, m.DeploymentAnswer),
    _command("pause", optimizations.pause, "Hold the rollout", m.CommandRequest, m.DeploymentAnswer),
    _command("resume", optimizations.resume, "Go on with the stage", m.CommandRequest, m.DeploymentAnswer),
    _command("promote", optimizations.promote, "Go to the next stage", m.PromoteRequest, m.DeploymentAnswer),
    _command("retry", optimizations.retry, "Begin a new attempt", m.CommandRequest, m.DeploymentAnswer),
    _command(
        "abort", optimizations.abort, "Stop the rollout for good", m.CommandRequest, m.OptimizationAnswer
    ),
    _command("rollback", optimizations.rollback, "Take the change back", m.CommandRequest, m.RollbackAnswer),
    Endpoint(
        "GET",
        "/api/v1/strategies",
        optimizations.strategies,
        About("List strategies and their parameters", m.StrategiesAnswer, also=(503,)),
    ),
    Endpoint(
        "GET",
        "/api/v1/audit",
        audit.page,
        About("Who did what", m.AuditAnswer, query=m.AuditQuery, also=(503,)),
    ),
    Endpoint(
        "POST",
        "/api/v1/config/reload",
        configuration.reload,
        About("Read the configuration file again", live_models.ReloadAnswer, also=(422,)),
    ),
    Endpoint(
        "GET",
        "/api/v1/config/export",
        configuration.export_yaml,
        About("Export the configuration", query=live_models.ExportQuery, media="application/yaml"),
    ),
    Endpoint(
        "POST",
        "/api/v1/config/validate",
        configuration.validate,
        About("Check a configuration", live_models.ValidateAnswer, live_models.ValidateRequest, also=(413,)),
    ),
    Endpoint(
        "GET",
        "/api/v1/routes",
        live.routes,
        About("Show the routing table in use", live_models.RoutesAnswer, also=(503,)),
    ),
    Endpoint(
        "GET",
        "/api/v1/arms",
        live.arms,
        About(
            "Show what is believed about arms",
            live_models.ArmsAnswer,
            query=live_models.ArmsQuery,
            also=(404,),
        ),
    ),
    Endpoint(
        "GET",
        "/api/v1/judges",
        judges.listing,
        About("Show what judges found and cost", JudgesAnswer),
    ),
    Endpoint(
        "GET",
        "/api/v1/metrics/summary",
        summary.summary,
        About("Show totals", live_models.SummaryAnswer),
    ),
    Endpoint(
        "GET",
        history.TARGET,
        history.history,
        About(
            "Show what happened when",
            page_models.HistoryAnswer,
            query=page_models.HistoryQuery,
            also=(404, 503),
        ),
    ),
    Endpoint(
        "GET",
        savings.TARGET,
        savings.savings,
        About("Show what was saved, with intervals", page_models.SavingsAnswer),
    ),
    Endpoint(
        "GET",
        densities.TARGET,
        densities.densities,
        About(
            "Show beliefs about arms as curves",
            page_models.DensitiesAnswer,
            query=page_models.DensitiesQuery,
            also=(404,),
        ),
    ),
    Endpoint(
        "GET",
        requests.TARGET,
        requests.requests,
        About("List the newest requests", page_models.RequestsAnswer, query=page_models.RequestsQuery),
    ),
    Endpoint(
        "GET",
        "/api/v1/decisions/{request_id}",
        decisions.show,
        About("Show why a request went where it went", live_models.DecisionAnswer, also=(404, 503)),
    ),
    Endpoint(
        "GET",
        f"{feedback.RESPONSES}/{{response_id}}",
        feedback.response,
        About("Find the request of a provider's response", live_models.ResponseAnswer, also=(404,)),
    ),
    Endpoint(
        "POST",
        "/api/v1/keys",
        keys.create,
        About(
            "Make a client key",
            live_models.NewKeyAnswer,
            live_models.KeyRequest,
            success=(201,),
            also=(409, 503),
        ),
    ),
    Endpoint("GET", "/api/v1/keys", keys.listing, About("List client keys", live_models.KeysAnswer)),
    Endpoint(
        "GET",
        "/api/v1/keys/{key_id}",
        keys.show,
        About("Show a client key", live_models.KeyAnswer, also=(404,)),
    ),
    Endpoint(
        "DELETE",
        "/api/v1/keys/{key_id}",
        keys.revoke,
        About("Revoke a client key", live_models.KeyAnswer, also=(404, 503)),
    ),
    Endpoint("GET", "/api/v1/limits", leases.limits, About("Show limits in use", live_models.LimitsAnswer)),
    Endpoint(
        "GET",
        cluster.TARGET,
        cluster.show,
        About("Show nodes, shards and engines", mc.ClusterAnswer),
    ),
    Endpoint(
        "POST",
        f"{cluster.TARGET}/rebuild",
        cluster.rebuild,
        About(
            "Learn everything again from the topic",
            mc.RebuildAnswer,
            mc.RebuildRequest,
            optional_body=True,
            success=(202,),
            also=(409, 503),
        ),
    ),
    Endpoint("GET", "/openapi.json", openapi.document, _OPENAPI),
    Endpoint("GET", "/api/v1/openapi.json", openapi.document, _OPENAPI),
    Endpoint(
        "POST",
        "/internal/v1/leases",
        leases.report,
        About("Renew a worker's leases", media="application/octet-stream"),
        Reach.WORKER,
    ),
)
