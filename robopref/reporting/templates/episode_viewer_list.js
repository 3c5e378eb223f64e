(() => {
  const PAGE = 200;
  const all = window.episodes.map((row, i) => ({ ...row, number: i + 1, share: row.human / row.steps }));
  const form = document.getElementById("filters");
  const field = (name) => form.elements.namedItem(name);
  const VARYING = ["task", "operator", "policy", "outcome"];
  const distinct = Object.fromEntries(
    ["instruction", ...VARYING].map((name) => [name, [...new Set(all.map((row) => row[name]))].sort()]));
  const varies = (name) => distinct[name].length > 1;

  // What all episodes have in common is said once.
  document.getElementById("common").replaceChildren(
    ...["task", "instruction", "policy", "operator"].filter((name) => !varies(name) && distinct[name][0])
      .map((name) => fact(name[0].toUpperCase() + name.slice(1), distinct[name][0])));
  for (const name of VARYING) {
    const select = field(name);
    select.append(make("option", { value: "" }, "all"),
      ...distinct[name].map((value) => make("option", { value: `=${value}` }, value || "(none)")));
    select.parentElement.hidden = !varies(name);
  }
  legend(document.getElementById("legend"), LOOKS.actors, new Set(all.flatMap((row) => row.band.map((run) => run[0]))));

  const band = (row) => {
    const element = make("div", { class: "band", "aria-hidden": "true" });
    fillBand(element, row.band, LOOKS.actors);
    return element;
  };
  const columns = [
    { key: "number", title: "No.", number: true },
    { key: "started", title: "Episode", cell: (row) => make("a", { href: link(row) }, when(row.started) || row.id) },
    ...["task", "instruction", "operator", "policy"].filter(varies)
      .map((key) => ({ key, title: key[0].toUpperCase() + key.slice(1) })),
    { key: "outcome", title: "Outcome" },
    { key: "steps", title: "Steps", number: true },
    { key: "takeovers", title: "Takeovers", number: true },
    { key: "share", title: "Operator’s share", number: true, cell: (row) => `${(100 * row.share).toFixed(1)} %` },
    { key: null, title: "Who drove", cell: band },
  ];

  const state = { sort: "number", down: false, page: 0 };
  const restored = new URLSearchParams(location.hash.slice(1));
  for (const [name, value] of restored) {
    if (name === "sort" && columns.some((c) => c.key === value)) state.sort = value;
    else if (name === "down") state.down = true;
    else if (field(name)) field(name).value = value;
  }

  function matches(row) {
    const words = field("text").value.toLowerCase().split(/\s+/).filter(Boolean);
    const text = [row.id, row.task, row.instruction, row.operator, row.policy, row.outcome].join("\n").toLowerCase();
    const takeovers = field("takeovers").value;
    return words.every((word) => text.includes(word))
      && VARYING.every((name) => !field(name).value || field(name).value === `=${row[name]}`)
      && (!takeovers || (row.takeovers > 0) === (takeovers === "some"))
      && (!field("least").value || row.steps >= Number(field("least").value))
      && (!field("most").value || row.steps <= Number(field("most").value));
  }

  const headings = columns.map((column) => {
    const heading = make("th", { scope: "col", class: column.number ? "number" : "" });
    if (column.key === null) {
      heading.append(column.title);
      return heading;
    }
    const button = make("button", { type: "button" }, column.title);
    button.addEventListener("click", () => {
      state.down = state.sort === column.key && !state.down;
      state.sort = column.key;
      state.page = 0;
      show();
    });
    heading.append(button);
    return heading;
  });
  document.getElementById("headings").replaceChildren(...headings);

  function show() {
    const found = all.filter(matches);
    const sign = state.down ? -1 : 1;
    found.sort((a, b) => {
      const [x, y] = [a[state.sort], b[state.sort]];
      return sign * (typeof x === "string" ? x.localeCompare(y) : x - y) || a.number - b.number;
    });
    columns.forEach((column, i) => {
      const sorted = column.key !== null && column.key === state.sort;
      if (column.key !== null) {
        headings[i].setAttribute("aria-sort", sorted ? (state.down ? "descending" : "ascending") : "none");
        headings[i].firstChild.textContent = column.title + (sorted ? (state.down ? " ▼" : " ▲") : "");
      }
    });
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    state.page = Math.min(state.page, pages - 1);
    const rows = found.slice(state.page * PAGE, (state.page + 1) * PAGE).map((row) => make("tr", {},
      ...columns.map((column) => make("td", column.number ? { class: "number" } : {},
        column.cell ? column.cell(row) : String(row[column.key] === "" ? "(none)" : row[column.key])))));
    document.getElementById("rows").replaceChildren(...rows);
    document.getElementById("count").textContent = found.length === all.length
      ? `${all.length} episodes` : `${found.length} of ${all.length} episodes`;
    document.getElementById("pages").hidden = pages === 1;
    document.getElementById("page").textContent = `Page ${state.page + 1} of ${pages}`;
    document.getElementById("before").disabled = state.page === 0;
    document.getElementById("after").disabled = state.page === pages - 1;
    remember();
  }

  // In the address, so that coming back from an episode, or a copied address, shows the same list.
  function remember() {
    const told = new URLSearchParams();
    for (const element of form.elements) if (element.name && element.value) told.set(element.name, element.value);
    if (state.sort !== "number") told.set("sort", state.sort);
    if (state.down) told.set("down", "1");
    history.replaceState(null, "", `#${told}`);
  }

  const turn = (by) => () => {
    state.page += by;
    show();
    document.querySelector("table").scrollIntoView();
  };
  document.getElementById("before").addEventListener("click", turn(-1));
  document.getElementById("after").addEventListener("click", turn(1));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", () => { state.page = 0; show(); });
  form.addEventListener("reset", () => setTimeout(() => { state.page = 0; show(); }));
  show();
})();
