"""The viewer of episodes: what the pages show in a real browser is what was recorded."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import synthetic
from html_page import Page
from station_browser import launched, until

from robopref.cli.main import main
from robopref.errors import RoboprefError
from robopref.labeling import LabelingRule
from robopref.reporting.episode_viewer import write_viewer
from robopref.reporting.episode_viewer_data import cameras, film_rate, list_row, takeovers
from robopref.store import EpisodeStore
from robopref.trajectory import Actor, Episode, Outcome, takeover_count

RULE = LabelingRule(window=3)
P, H, N = Actor.POLICY, Actor.HUMAN, Actor.HOLD
ACTORS = [P] * 8 + [H] * 6 + [N] * 2 + [H] * 2 + [P] * 7
NASTY = 'push "it" <b>now</b> & </script><script>window.bad = 1</script>'


def grey_film(episode: Episode) -> Episode:
    """Its frames are as bright as their number says."""
    level = np.arange(len(episode)) * 9
    image = np.broadcast_to(level.astype(np.uint8)[:, None, None, None], (len(episode), 24, 32, 3)).copy()
    return replace(episode, observation={**episode.observation, "image": image}, final_observation={})


@pytest.fixture(scope="module")
def viewer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Films, one damaged episode among them."""
    root = tmp_path_factory.mktemp("viewer")
    store = EpisodeStore.create_or_open(root / "data")
    for i, actors in enumerate([ACTORS, [P] * 10, [P] * 4 + [H] * 4, [P] * 5]):
        episode = grey_film(
            synthetic.episode(
                actors,
                seed=i,
                instruction=NASTY,
                operator_id=f"op {i % 2}",
                outcome=(Outcome.SUCCESS, Outcome.FAILURE)[i % 2],
                started_at=f"2026-01-0{i + 1}T10:00:00+00:00",
                episode_id=f"e #{i} %20ä?",
            )
        )
        store.add(episode)
    os.truncate(store.path / "episodes" / "e #3 %20ä?.safetensors", 200)
    found = write_viewer(store, root / "out", rule=RULE)
    assert (found.episodes, found.kept, len(found.damaged)) == (3, 0, 1)
    return root / "out"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as started:
        yield started


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page that must not complain, and that nothing but files may be loaded into."""
    page = browser.new_page(viewport={"width": 1200, "height": 900}, reduced_motion="reduce")
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: None if request.url.startswith("file:") else errors.append(request.url))
    yield page
    assert errors == []
    page.close()


def open_episode(page: Any, viewer: Path, number: int) -> dict[str, Any]:
    rows = script_value(viewer / "episodes.js")
    page.goto((viewer / "index.html").as_uri())
    page.locator("#rows a").nth(number).click()
    page.wait_for_selector("#episode:not([hidden])")
    return rows[number]


def script_value(path: Path) -> Any:
    text = path.read_text().partition(" = ")[2]
    return json.loads(text.rstrip(";\n"))


def test_pages_are_well_formed_and_say_what_is_damaged(viewer: Path) -> None:
    for name in ("index.html", "episode.html"):
        text = (viewer / name).read_text()
        parsed = Page(text)
        assert not [s for s in parsed.all("script") if s.get("src", "episodes.js") != "episodes.js"]
        assert not parsed.all("link")
        assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "not a whole episode file" in Page((viewer / "index.html").read_text()).text


def test_the_list_filters_sorts_and_remembers(page: Any, viewer: Path) -> None:
    page.goto((viewer / "index.html").as_uri())

    def numbers():
        return page.locator("#rows tr td:first-child").all_inner_texts()

    assert numbers() == ["1", "2", "3"]
    assert NASTY in page.locator("#common").inner_text()
    assert page.evaluate("window.bad") is None
    page.get_by_role("button", name="Steps").click()
    assert numbers() == ["3", "2", "1"]
    assert page.get_by_role("columnheader", name="Steps").get_attribute("aria-sort") == "ascending"
    page.get_by_role("button", name="Steps").click()
    assert numbers() == ["1", "2", "3"]
    page.get_by_role("combobox", name="Takeovers").select_option("with")
    assert numbers() == ["1", "3"]
    assert page.locator("#count").inner_text() == "2 of 3 episodes"
    page.get_by_label("At most, steps").fill("9")
    assert numbers() == ["3"]
    page.locator("#rows a").click()
    page.wait_for_selector("#episode:not([hidden])")
    page.go_back()
    until(lambda: numbers() == ["3"], "the list is as it was left")
    page.get_by_role("button", name="Show all").click()
    until(lambda: len(numbers()) == 3, "all are shown")
    page.get_by_label("Outcome").select_option("failure")
    assert numbers() == ["2"]
    page.get_by_label("Outcome").select_option("all")
    page.get_by_label("Text").fill("op nothing")
    assert numbers() == []


def brightness(page: Any) -> float:
    picture = cv2.imdecode(np.frombuffer(page.locator("video").screenshot(), np.uint8), cv2.IMREAD_GRAYSCALE)
    height, width = picture.shape
    return float(picture[height // 3 : height // 2, width // 3 : width // 2].mean())


def test_an_episode_shows_film_curves_and_labels_of_the_same_step(page: Any, viewer: Path) -> None:
    open_episode(page, viewer, 0)
    assert NASTY in page.locator("#facts").inner_text()
    slider = page.locator("#slider")
    slider.focus()

    def at(step: int, actor: str, label: str) -> None:
        expected = f"step {step} of 25, {actor}, labelled {label}"
        assert slider.get_attribute("aria-valuetext") == expected
        until(lambda: abs(brightness(page) - 9 * (step - 1)) < 4, f"the film shows step {step}", 10)

    at(1, "policy", "policy")
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    at(6, "policy", "undesirable")
    page.get_by_role("button", name="1: steps 9 to 18, 0.5 s").click()
    at(9, "operator", "human")
    recorded = EpisodeStore.open(viewer.parent / "data").read("e #0 %20ä?")
    values = page.locator("#plots .track").first.locator("dd").all_inner_texts()
    expected = [recorded.human_action[8, 0], recorded.action[8, 0], recorded.policy_action[8, 0]]
    assert [float(v.replace("−", "-")) for v in values] == expected
    page.keyboard.press("End")
    at(25, "policy", "policy")
    page.keyboard.press("Home")
    page.keyboard.press("PageUp")
    at(4, "policy", "policy")
    box = page.locator("#plots canvas").nth(1).bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.1, box["y"] + 10)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * (14.5 / 25), box["y"] + 10, steps=4)
    page.mouse.up()
    at(15, "hold", "excluded")
    left = page.locator("#cursor").bounding_box()["x"]
    assert left == pytest.approx(box["x"] + box["width"] * 14.5 / 25, abs=2)


def test_playing_runs_to_the_end_with_the_film(page: Any, viewer: Path) -> None:
    open_episode(page, viewer, 2)
    page.get_by_label("Speed").select_option("2")
    page.locator("#slider").focus()
    page.keyboard.press(" ")

    def now():
        return int(page.locator("#slider").get_attribute("aria-valuenow"))

    until(lambda: now() == 8, "it has played to the end", 15)
    until(lambda: page.locator("#play").inner_text() == "Play", "it stopped there")
    until(lambda: abs(brightness(page) - 9 * 7) < 4, "the film shows the last step", 10)
    page.get_by_role("link", name="Previous episode").click()
    until(lambda: "episode 2: failure" in page.title(), "the one before is shown")
    assert page.locator("#no-jumps").is_visible()
    assert page.get_by_role("link", name="Next episode").is_visible()


def test_text_stands_out_and_nothing_runs_over_in_a_narrow_window(page: Any, viewer: Path) -> None:
    page.set_viewport_size({"width": 360, "height": 700})
    open_episode(page, viewer, 0)
    over = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(over) <= 0
    contrasts = page.evaluate(
        """() => {
          const light = (css) => {
            const c = css.match(/[\\d.]+/g).slice(0, 3).map((x) => x / 255);
            const [r, g, b] = c.map((x) => (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4));
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
          };
          return [...document.querySelectorAll("#actors .segment, #labels .segment")].map((element) => {
            const style = getComputedStyle(element);
            const [x, y] = [light(style.color), light(style.backgroundColor)].sort();
            return (y + 0.05) / (x + 0.05);
          });
        }"""
    )
    assert len(contrasts) >= 8
    assert min(contrasts) >= 4.5
    page.goto((viewer / "index.html").as_uri())
    assert page.evaluate(over) <= 0


def test_an_episode_that_is_not_there_is_said(page: Any, viewer: Path) -> None:
    page.goto((viewer / "episode.html").as_uri() + "#..%2F..%2Fx")
    assert "no episode ../../x" in page.locator("#problem").inner_text()
    page.goto((viewer / "episode.html").as_uri())
    until(lambda: "Choose an episode" in page.locator("#problem").inner_text(), "it says what to do")


def test_states_and_discrete_actions_alone_make_a_page(page: Any, tmp_path: Path) -> None:
    store = EpisodeStore.create_or_open(tmp_path / "data")
    episode = synthetic.episode(ACTORS, discrete=True)
    action = np.arange(len(ACTORS)) % 6
    store.add(replace(episode, action=action, policy_action=action))
    write_viewer(store, tmp_path / "out", rule=RULE)
    open_episode(page, tmp_path / "out", 0)
    assert page.locator("#no-films").is_visible()
    assert page.locator("video").count() == 0
    for _ in range(4):
        page.get_by_role("button", name="Step on").click()
    values = page.locator("#plots .track").first.locator("dd").all_inner_texts()
    assert values == ["4", "4"]  # executed and proposed: nobody commanded anything
    page.get_by_label("Speed").select_option("4")
    page.get_by_role("button", name="Play").click()
    until(lambda: page.locator("#slider").get_attribute("aria-valuenow") == "25", "it has played without a film", 15)


def test_a_thousand_episodes_are_paged(page: Any, tmp_path: Path) -> None:
    store = EpisodeStore.create_or_open(tmp_path / "data")
    store.add(synthetic.episode([P] * 3))
    write_viewer(store, tmp_path / "out", rule=RULE)
    (row,) = script_value(tmp_path / "out" / "episodes.js")
    rows = [row | {"id": str(i), "steps": i + 1} for i in range(1000)]
    (tmp_path / "out" / "episodes.js").write_text(f"window.episodes = {json.dumps(rows)};\n")
    page.goto((tmp_path / "out" / "index.html").as_uri())
    assert page.locator("#rows tr").count() == 200
    page.get_by_role("button", name="Next page").click()
    assert page.locator("#rows tr td:first-child").first.inner_text() == "201"
    page.get_by_label("At least, steps").fill("991")
    assert page.locator("#rows tr").count() == 10
    assert not page.locator("#pages").is_visible()
    assert (tmp_path / "out" / "index.html").stat().st_size < 40_000


def test_writing_again_keeps_what_is_there_and_drops_what_is_gone(tmp_path: Path) -> None:
    store = EpisodeStore.create_or_open(tmp_path / "data")
    for seed in range(3):
        store.add(grey_film(synthetic.episode([P] * 5 + [H] * 4, seed=seed)))
    out = tmp_path / "out"
    write_viewer(store, out, rule=RULE)
    before = {path.name: path.stat().st_mtime_ns for path in out.rglob("*.mp4")}
    again = write_viewer(store, out, rule=RULE)
    assert (again.episodes, again.kept) == (3, 3)
    assert {path.name: path.stat().st_mtime_ns for path in out.rglob("*.mp4")} == before
    assert write_viewer(store, out, rule=LabelingRule(window=1)).kept == 0
    ids = store.episode_ids()
    assert write_viewer(store, out, rule=RULE, ids=ids[:1]).episodes == 1
    assert [path.stem for path in (out / "data").iterdir()] == ids[:1]
    assert [path.name for path in (out / "videos").iterdir()] == [f"{ids[0]}.0.mp4"]


def test_another_folder_is_left_alone(tmp_path: Path) -> None:
    store = EpisodeStore.create_or_open(tmp_path / "data")
    with pytest.raises(RoboprefError, match="nothing to show"):
        write_viewer(store, tmp_path / "out", rule=RULE)
    store.add(synthetic.episode([P] * 3))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "index.html").write_text("precious")
    for taken in (tmp_path / "mine", tmp_path / "mine" / "index.html"):
        with pytest.raises(RoboprefError, match="is no viewer"):
            write_viewer(store, taken, rule=RULE)
    assert (tmp_path / "mine" / "index.html").read_text() == "precious"
    os.truncate(store.path / "episodes" / f"{store.episode_ids()[0]}.safetensors", 50)
    with pytest.raises(RoboprefError, match="none of the episodes"):
        write_viewer(store, tmp_path / "out", rule=RULE)


@pytest.mark.parametrize(
    ("shape", "pick"),
    [
        ((24, 32, 3), lambda x: x),
        ((24, 32, 4), lambda x: x[..., :3]),
        ((3, 24, 32), lambda x: x.transpose(0, 2, 3, 1)),
        ((4, 24, 32), lambda x: np.repeat(x[:, -1, ..., None], 3, -1)),
        ((24, 32, 1), lambda x: np.repeat(x, 3, -1)),
        ((24, 32), lambda x: np.repeat(x[..., None], 3, -1)),
        ((40,), None),
        ((3, 4), None),
        ((4, 5, 3), None),
    ],
)
def test_pictures_are_found_whatever_their_layout(shape: tuple[int, ...], pick: Any) -> None:
    values = np.random.default_rng(0).integers(0, 256, (5, *shape), dtype=np.uint8)
    base = synthetic.episode([P] * 5)
    found = cameras(replace(base, observation={"x": values}, final_observation={}))
    if pick is None:
        assert found == {}
    else:
        np.testing.assert_array_equal(found["x"], pick(values))


def test_films_have_a_frame_for_each_step(viewer: Path) -> None:
    with av.open(str(viewer / "videos" / "e #0 %20ä?.0.mp4")) as container:
        frames = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
        assert container.streams.video[0].average_rate == 20
    assert len(frames) == 25 + 10  # the last one stays for half a second
    height, width = frames[0].shape
    levels = [frame[height // 3, width // 3] for frame in frames[:25]]
    np.testing.assert_allclose(levels, np.arange(25) * 9, atol=3)


def test_the_rate_of_a_film_is_the_recordings() -> None:
    episode = synthetic.episode([P] * 9)
    assert film_rate(episode) == 20
    assert film_rate(replace(episode, t_monotonic_ns=np.arange(9) * 3_000_000)) == 20  # a simulation at 333 Hz
    assert film_rate(replace(episode, t_monotonic_ns=np.zeros(9, np.int64))) == 20
    noted = replace(episode, info=replace(episode.info, extra={"hz": 15.0}))
    assert film_rate(noted) == 15


@pytest.mark.parametrize("actors", [ACTORS, [H], [N, H, N, N, P, H, N], [P, H] * 200, [P]])
def test_takeovers_are_counted_as_everywhere(actors: list[Actor]) -> None:
    found = list(takeovers(np.array(actors)))
    assert len(found) == takeover_count(np.array(actors))
    assert all(actors[a] == actors[b - 1] == H and P not in actors[a:b] for a, b in found)
    row = list_row(synthetic.episode(actors))
    assert sum(count for _, count in row["band"]) == len(actors)
    assert len(row["band"]) <= 80
    assert (H in actors) == any(who == H for who, _ in row["band"])


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = EpisodeStore.create_or_open(tmp_path / "data")
    ids = [store.add(synthetic.episode([P] * 3, seed=i, episode_id=f"{i}-x")) for i in range(3)]
    os.truncate(store.path / "episodes" / f"{ids[0]}.safetensors", 50)
    main(["data", "view", str(store.path), "--out", str(tmp_path / "out")])
    told = capsys.readouterr().out
    assert f"2 episodes: {tmp_path / 'out' / 'index.html'}" in told
    assert f"damaged, left out: {store.path}" in told
    main(["data", "view", str(store.path), "--out", str(tmp_path / "one"), "--episodes", "2"])
    assert [row["id"] for row in script_value(tmp_path / "one" / "episodes.js")] == [ids[2]]
    for wrong, message in (
        ([str(tmp_path / "absent"), "--out", str(tmp_path / "x")], "no data directory"),
        ([str(store.path), "--out", str(tmp_path / "x"), "--episodes", "zebra"], "begins with 'zebra'"),
        ([str(store.path), "--out", str(store.path)], "is no viewer"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["data", "view", *wrong])
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err
