"""How the HTML report looks, light and dark."""

STYLE = """
:root { color-scheme: light dark; --paper: #fcfcfb; --ink: #0b0b0b; --muted: #60605c; --grid: #e1e0d9; --box: #f3f2ee;
  --line: #2a78d6; --band: #2a78d633; --each: #89878080; --limit: #c8382f; --wait: #eda10033; --rung: #4a3aa7;
  --stage-0: #2a78d6; --stage-1: #eda100; --stage-2: #e87ba4; --stage-3: #1baf7a; --stage-4: #4a3aa7;
  --stage-5: #008300; --stage-6: #eb6834; --stage-7: #898781; --stage-8: #c3c2b7; }
@media (prefers-color-scheme: dark) { :root { --paper: #1a1a19; --ink: #f4f4f2; --muted: #a5a49d; --grid: #363633;
  --box: #262624; --line: #5598e7; --band: #5598e740; --each: #a5a49d60; --limit: #ef6a62; --wait: #eda10033;
  --rung: #9085e9; --stage-0: #3987e5; --stage-1: #c98500; --stage-2: #d55181; --stage-3: #199e70; --stage-4: #9085e9;
  --stage-5: #2f9a2f; --stage-6: #d95926; --stage-7: #898781; --stage-8: #52514e; } }
body { margin: 2rem auto; max-width: 1000px; padding: 0 1rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
.command { margin: .2rem 0 1rem; color: var(--muted); overflow-wrap: anywhere; }
.faults { border-left: 4px solid var(--limit); background: var(--box); margin: 0 0 1rem;
  padding: .5rem 1rem .5rem 2rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(110px, 1fr)); gap: 8px; }
.tiles div { background: var(--box); border-radius: 6px; padding: .5rem .7rem; }
.tiles b { display: block; font-size: 1.25rem; } .tiles span { color: var(--muted); font-size: .8rem; }
.sessions { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); gap: 16px; }
figure { margin: 0; } figcaption { color: var(--muted); font-size: .85rem; } figcaption b { color: var(--ink); }
figure.wide { overflow-x: auto; } figure.wide svg { min-width: 640px; }
svg { width: 100%; height: auto; display: block; }
path { fill: none; } .line { stroke: var(--line); stroke-width: 1.5; stroke-linejoin: round; }
.band { fill: var(--band); } .each { stroke: var(--each); stroke-width: 1; } path.grid { stroke: var(--grid); }
.limit { stroke: var(--limit); stroke-width: 1.2; stroke-dasharray: 5 3; } .wait { fill: var(--wait); }
.rung { stroke: var(--rung); stroke-width: 2; } .label { fill: var(--muted); font-size: 11px; }
.limit-text { fill: var(--limit); font-size: 11px; paint-order: stroke; stroke: var(--paper); stroke-width: 4px; }
.keys { list-style: none; display: flex; flex-wrap: wrap; gap: 4px 16px; padding: 0; margin: 0 0 .3rem;
  font-size: .85rem; }
.keys i { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin-right: 6px;
  vertical-align: -1px; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .85rem; width: 100%; }
th, td { text-align: right; padding: .25rem .5rem; border-bottom: 1px solid var(--grid); white-space: nowrap;
  font-variant-numeric: tabular-nums; }
th { color: var(--muted); font-weight: 500; }
td:nth-child(n+13), th:nth-child(n+13), .failed { text-align: left; white-space: normal; }
td:nth-child(n+13) { min-width: 6rem; } tr > * { vertical-align: top; }
.note { color: var(--muted); font-size: .85rem; margin: .6rem 0 0; }
""" + "".join(f".stage-{n} {{ fill: var(--stage-{n}); background: var(--stage-{n}); }}\n" for n in range(9))
