(() => {
  const byId = (name) => document.getElementById(name);
  const rows = window.episodes;
  let shown = null; // what is on the page: { data, plots, films, step }
  let loading = "";

  function complain(text) {
    byId("problem").textContent = text;
    byId("problem").hidden = !text;
    byId("episode").hidden = Boolean(text);
  }

  // Data come as a script, because a page from the disk may not fetch files.
  function load() {
    const id = decodeURIComponent(location.hash.slice(1));
    const place = rows.findIndex((row) => row.id === id);
    pause();
    if (place < 0) {
      complain(id ? `There is no episode ${id} in this viewer.` : "Choose an episode from the list.");
      return;
    }
    for (const [name, row] of [["earlier", rows[place - 1]], ["later", rows[place + 1]]]) {
      if (row) byId(name).href = link(row);
      else byId(name).removeAttribute("href");
      byId(name).hidden = !row;
    }
    loading = id;
    const script = make("script", { src: `data/${encodeURIComponent(id)}.js` });
    script.onload = () => {
      script.remove();
      if (loading === id && window.episode.id === id) show(window.episode, place);
    };
    script.onerror = () => complain(`The data of episode ${id} are missing: write the viewer anew.`);
    document.head.append(script);
  }

  function show(data, place) {
    complain("");
    const size = data.size;
    for (const name of ["executed", "proposed", "commanded", "reward", "times"]) data[name] = unpack(data[name]);
    data.actorAt = spread(data.actors, data.steps);
    data.labelAt = spread(data.labels, data.steps);
    const title = `${data.task}, episode ${place + 1}: ${data.outcome}`;
    document.title = title;
    byId("title").textContent = title;
    const share = `${((100 * data.human) / data.steps).toFixed(1)} %`;
    byId("facts").replaceChildren(
      fact("Instruction", data.instruction || "(none)", true), fact("Outcome", data.outcome),
      fact("Policy", data.policy || "(none)"), fact("Operator", data.operator || "(none)"),
      fact("Length", `${data.steps} steps, ${data.seconds.toFixed(1)} s`), fact("Operator’s share", share),
      fact("Takeovers", String(data.takeovers)));
    const rate = data.recordedHz ? `${data.recordedHz.toFixed(1)} steps a second` : "unknown";
    byId("more").replaceChildren(
      fact("Episode", data.id), fact("Recorded", when(data.started) || "(unknown)"),
      fact("Seed", data.seed === null ? "(none)" : String(data.seed)), fact("Rate of the recording", rate),
      fact("Rate of the film at speed 1", `${data.fps} steps a second`));
    byId("extra").textContent = JSON.stringify(data.extra, null, 2);
    byId("extra").hidden = Object.keys(data.extra).length === 0;

    const address = (file) => file.split("/").map(encodeURIComponent).join("/");
    const films = data.films.map(({ file }) => make("video", { src: address(file), preload: "auto", tabindex: "-1" }));
    films.forEach((film, i) => {
      film.muted = true;
      film.playsInline = true;
      film.wanted = null;
      watch(film);
      film.addEventListener("seeked", arrived);
      film.addEventListener("loadedmetadata", arrived);
      film.setAttribute("aria-label", `Film of the camera ${data.films[i].key}`);
      film.addEventListener("error", () => complain(`${data.films[i].file} cannot be played: write the viewer anew.`));
    });
    byId("films").replaceChildren(...films.map((film, i) =>
      make("figure", {}, film, make("figcaption", {}, `Camera: ${data.films[i].key}`))));
    byId("no-films").hidden = films.length > 0;

    fillBand(byId("actors"), data.actors, LOOKS.actors);
    fillBand(byId("labels"), data.labels, LOOKS.labels);
    const present = (runs) => new Set(runs.map((run) => run[0]));
    legend(byId("legend"), LOOKS.actors, present(data.actors));
    const own = Object.fromEntries(Object.entries(LOOKS.labels).filter(([, look]) => HATCHES[look.name] === "crossed"));
    const labelled = make("ul");
    legend(labelled, own, present(data.labels));
    byId("legend").append(...labelled.children);
    byId("last").textContent = `step ${data.steps}`;
    byId("slider").setAttribute("aria-valuemax", data.steps);

    const has = (name) => data[name].some(Number.isFinite);
    const names = ["commanded", "executed", "proposed"].filter((name) => name === "executed" || has(name));
    const plots = [];
    for (let d = 0; d < size; d++) {
      const series = names.map((name) => [name, (t) => data[name][t * size + d]]);
      const named = size > 1 ? `Action ${d}` : "Action";
      plots.push(new Plot(named, data.steps, series, { stairs: data.discrete, shaded: data.drives }));
    }
    plots.push(new Plot("Reward", data.steps, [["reward", (t) => data.reward[t]]], { shaded: data.drives }));
    byId("plots").replaceChildren(...plots.map((plot) => plot.element));
    curveLegend(byId("curves"), names);

    byId("jumps").replaceChildren(...data.drives.map(([start, stop], i) => {
      const seconds = (data.times[stop - 1] - data.times[start]).toFixed(1);
      const button = make("button", { type: "button" }, `${i + 1}: steps ${start + 1} to ${stop}, ${seconds} s`);
      button.addEventListener("click", () => { pause(); seek(start); byId("slider").focus(); });
      return make("li", {}, button);
    }));
    byId("no-jumps").hidden = data.drives.length > 0;
    shown = { data, plots, films, step: 0 };
    redraw();
    seek(0);
  }

  // Runs [value, count] -> the value of each step.
  function spread(runs, steps) {
    const values = new Uint8Array(steps);
    let start = 0;
    for (const [value, count] of runs) {
      values.fill(value, start, start + count);
      start += count;
    }
    return values;
  }

  function redraw() {
    if (!shown) return;
    shown.plots.forEach((plot) => plot.draw());
    nameSegments(byId("actors"));
    nameSegments(byId("labels"));
  }

  function mark(step) {
    const { data, plots } = shown;
    shown.step = step;
    const actor = LOOKS.actors[data.actorAt[step]];
    const label = LOOKS.labels[data.labelAt[step]];
    byId("cursor").style.left = `${(100 * (step + 0.5)) / data.steps}%`;
    plots.forEach((plot) => plot.at(step));
    const tell = (look) => {
      const element = make("strong", {}, look.name);
      element.style.setProperty("--color", look.color);
      return element;
    };
    byId("readout").replaceChildren(`Step ${step + 1} of ${data.steps}, ${data.times[step].toFixed(2)} s. Acting: `,
      tell(actor), ". Label: ", tell(label), ".");
    const slider = byId("slider");
    slider.setAttribute("aria-valuenow", step + 1);
    slider.setAttribute("aria-valuetext", `step ${step + 1} of ${data.steps}, ${actor.name}, labelled ${label.name}`);
  }

  function seek(step) {
    if (!shown) return;
    const { data, films } = shown;
    const to = Math.max(0, Math.min(data.steps - 1, step));
    // The middle of a frame, so that rounding never shows its neighbour.
    for (const film of films) {
      film.nudges = 0;
      aim(film, (to + 0.5) / data.fps);
    }
    mark(to);
  }

  // One seek at a time: browsers that are sent elsewhere before they arrive may go on showing a frame in between.
  function aim(film, time) {
    film.wanted = time;
    if (!film.seeking && film.readyState > 0) film.currentTime = time;
  }

  function arrived(event) {
    const film = event.target;
    if (film.wanted === null) return;
    if (Math.abs(film.currentTime - film.wanted) > 1e-3) film.currentTime = film.wanted;
    else setTimeout(insist, 150, film, film.wanted);
  }

  // A paused film may report that it has arrived and show an older frame all the same: then it is nudged within its frame.
  function insist(film, time) {
    if (film.wanted !== time || !film.paused || film.seeking || !shown || !shown.films.includes(film)) return;
    const { fps } = shown.data;
    if (film.painted === undefined || film.nudges++ > 8 || Math.round(film.painted * fps) === Math.floor(time * fps)) return;
    aim(film, (Math.floor(time * fps) + 0.3 + 0.4 * Math.random()) / fps);
  }

  function watch(film) {
    if (!film.requestVideoFrameCallback) return;
    film.requestVideoFrameCallback((now, { mediaTime }) => {
      film.painted = mediaTime;
      watch(film);
    });
  }

  let playing = null; // { since, from } while it plays

  function play() {
    if (!shown) return;
    if (shown.step >= shown.data.steps - 1) seek(0);
    const speed = Number(byId("speed").value);
    playing = { since: performance.now(), from: shown.step, speed };
    for (const film of shown.films) {
      film.wanted = null;
      film.playbackRate = speed;
      film.play().catch(() => {}); // paused again before it began
    }
    byId("play").textContent = "Pause";
    requestAnimationFrame(tick);
  }

  function pause() {
    playing = null;
    byId("play").textContent = "Play";
    if (shown) for (const film of shown.films) film.pause();
  }

  function tick(now) {
    if (!playing || !shown) return;
    const { data, films } = shown;
    // The first film sets the time, else the clock does.
    const passed = films.length ? films[0].currentTime * data.fps
      : playing.from + ((now - playing.since) / 1000) * data.fps * playing.speed;
    for (const film of films.slice(1)) {
      if (Math.abs(film.currentTime - films[0].currentTime) > 0.15) film.currentTime = films[0].currentTime;
    }
    const step = Math.floor(passed + 1e-3);
    mark(Math.max(0, Math.min(data.steps - 1, step)));
    if (step >= data.steps || (films.length && films[0].ended)) {
      pause();
      seek(data.steps - 1);
      return;
    }
    requestAnimationFrame(tick);
  }

  function moveTo(event) {
    const box = byId("actors").getBoundingClientRect();
    pause();
    seek(Math.floor(((event.clientX - box.left) / box.width) * shown.data.steps));
  }

  byId("tracks").addEventListener("pointerdown", (event) => {
    const plot = event.target.closest(".plot");
    if (!plot || !shown || event.button !== 0) return;
    plot.setPointerCapture(event.pointerId);
    moveTo(event);
    plot.onpointermove = moveTo;
    plot.onpointerup = plot.onpointercancel = () => { plot.onpointermove = null; };
  });

  byId("slider").addEventListener("keydown", (event) => {
    if (!shown || event.altKey || event.ctrlKey || event.metaKey) return;
    const tenth = Math.max(1, Math.round(shown.data.steps / 10));
    const moves = {
      ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -tenth, PageUp: tenth, Home: -Infinity, End: Infinity,
    };
    if (event.key === " ") toggle();
    else if (event.key in moves) {
      pause();
      seek(shown.step + moves[event.key]);
    } else return;
    event.preventDefault();
  });

  const toggle = () => (playing ? pause() : play());
  byId("play").addEventListener("click", toggle);
  byId("back").addEventListener("click", () => { pause(); if (shown) seek(shown.step - 1); });
  byId("forth").addEventListener("click", () => { pause(); if (shown) seek(shown.step + 1); });
  byId("speed").addEventListener("change", () => { if (playing) { pause(); play(); } });
  new ResizeObserver(redraw).observe(byId("tracks"));
  window.addEventListener("hashchange", load);
  load();
})();
