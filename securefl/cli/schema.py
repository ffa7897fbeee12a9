"""`securefl schema`: what may stand in each document that people write, for editors."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from securefl.documents.schemas import Schema


class Kind(StrEnum):
    """A kind of document that people write."""

    FEDERATION = "federation"
    POLICY = "policy"
    SUITE = "suite"
    SITE = "site"
    COORDINATOR = "coordinator"
    EXPERIMENT = "experiment"
    PLAN = "plan"
    PROJECT = "project"


def schema(kind: Annotated[Kind, typer.Argument(help="Of which kind of document.")]) -> None:
    """The JSON Schema of a kind of document, for editors and other tools."""
    from securefl.documents.schemas import schema_text  # noqa: PLC0415

    print(schema_text(schema_of(kind)), end="")


def schema_of(kind: Kind) -> Schema:
    """The JSON Schema of this kind of document."""
    from securefl.documents import (  # noqa: PLC0415  # noqa: PLC0415
        coordinator_file,
        coordinator_suite,
        experiment,
        federation,
        project_file,
        schemas,
        site_parts,
    )
    from securefl.policy import document, plan_document  # noqa: PLC0415

    match kind:
        case Kind.FEDERATION:
            return schemas.of(federation.FederationFile)
        case Kind.POLICY:
            return schemas.of(document.PolicyDocument)
        case Kind.SUITE:
            return schemas.of_suite()
        case Kind.SITE:
            return schemas.of(site_parts.SiteFile)
        case Kind.COORDINATOR:
            return schemas.of(coordinator_file.CoordinatorFile, coordinator_suite.CoordinatorSuiteFile)
        case Kind.EXPERIMENT:
            return schemas.of(experiment.ExperimentFile)
        case Kind.PLAN:
            return schemas.of(plan_document.PlanDocument)
        case Kind.PROJECT:
            return schemas.of(project_file.ProjectFile)
