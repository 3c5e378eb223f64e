"""How an episode ends in the store: finished, aborted, discarded or set aside, and amended before that."""

from __future__ import annotations

import pytest
from recorded_steps import INFO, make_step, record
from recorded_steps import store as store

from robopref.errors import RoboprefError
from robopref.store import EpisodeStore
from robopref.trajectory import Outcome, Step


def test_an_exception_keeps_the_episode_as_aborted(store: EpisodeStore) -> None:
    def broken(t: int) -> Step:
        return make_step(t) if t < 2 else make_step(t, reward=1 / 0)

    with pytest.raises(ZeroDivisionError):
        record(store, step=broken)
    (episode,) = store
    assert (episode.info.outcome, len(episode)) == (Outcome.ABORTED, 2)
    with store.begin(INFO):
        pass
    assert len(store) == 1
    assert not list((store.path / "journal").glob("*.journal"))


def test_an_episode_without_steps_is_not_finished(store: EpisodeStore) -> None:
    writer = store.begin(INFO)
    with pytest.raises(RoboprefError, match="no steps"):
        writer.finish(Outcome.SUCCESS)
    with pytest.raises(RoboprefError, match="begin another"):
        writer.append(make_step(0))


def test_discarded_episodes_are_kept_apart(store: EpisodeStore) -> None:
    writer = store.begin(INFO)
    writer.append(make_step(0))
    episode_id = writer.discard()
    assert len(store) == 0
    assert (store.path / "discarded" / f"{episode_id}.safetensors").is_file()


def test_a_finished_episode_can_be_set_aside(store: EpisodeStore) -> None:
    record(store)
    record(store)
    kept, unwanted = store.episode_ids()
    store.set_aside(unwanted)
    assert store.episode_ids() == [kept]
    assert (store.path / "discarded" / f"{unwanted}.safetensors").is_file()
    assert not store.verify()
    with pytest.raises(RoboprefError, match="no finished episode"):
        store.set_aside(unwanted)


def test_amendments_are_kept(store: EpisodeStore) -> None:
    writer = store.begin(INFO)
    writer.append(make_step(0))
    writer.amend(policy_id="q", extra={"note": "glare"})
    info = store.info(writer.finish(Outcome.SUCCESS))
    assert (info.policy_id, info.extra) == ("q", {"note": "glare"})
    with pytest.raises(RoboprefError, match="episode_id"):
        store.begin(INFO).amend(episode_id="mine")
