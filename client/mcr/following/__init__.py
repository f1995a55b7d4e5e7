"""Keeping a folder at a channel: fetch, verify, switch, load, acknowledge; and back when loading fails."""

from mcr.following.calls import FollowCalls as FollowCalls
from mcr.following.happenings import FollowEvent as FollowEvent
from mcr.following.happenings import FollowStep as FollowStep
from mcr.following.happenings import Loading as Loading
from mcr.following.place import KEEP_DEFAULT as KEEP_DEFAULT
from mcr.following.place import Switch as Switch
