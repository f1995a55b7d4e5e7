"""Committing by itself: looks at a folder, waits until what is in it is complete, commits by rule."""

from mcr.auto_commit.calls import AutoCommitCalls as AutoCommitCalls
from mcr.auto_commit.calls import AutoOptions as AutoOptions
from mcr.auto_commit.happenings import AutoEvent as AutoEvent
from mcr.auto_commit.happenings import AutoStep as AutoStep
from mcr.auto_commit.happenings import Found as Found
from mcr.auto_commit.rules import AutoRules as AutoRules
from mcr.auto_commit.rules import Improved as Improved
