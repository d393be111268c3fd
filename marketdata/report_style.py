"""The style of the daily report: light and dark by the reader's own choice, nothing fetched from anywhere."""

STYLE = """
:root{color-scheme:light dark;--ground:#f7f8fa;--card:#fff;--ink:#1c2430;--soft:#5d6878;
--line:#e2e6ec;--complete:#2f9e6b;--outage:#7d8ca3;--not-served:#8fcfae;--gaps:#e2a52b;
--unknown:#6d8fd6;--damaged:#a3315f;--missing:#d9534f;--none:#eceff3;--accent:#4676c8;
--code:#eef1f5}@media (prefers-color-scheme:dark){:root{--ground:#12161c;--card:#1a2029;
--ink:#e4e9f0;--soft:#98a4b5;--line:#2a323e;--complete:#3fae7c;--outage:#7e8b9d;
--not-served:#2f6e53;--gaps:#d9a03a;--unknown:#6487cf;--damaged:#c14d7e;--missing:#e0645f;
--none:#252c37;--accent:#6b9be6;--code:#252c37}}*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);font:15px/1.5 system-ui,-apple-system,
"Segoe UI",Roboto,"Helvetica Neue",sans-serif}main{max-width:1080px;margin:0 auto;
padding:32px 20px 48px}h1{font-size:28px;line-height:1.2;margin:2px 0 4px}
h2{font-size:16px;margin:0 0 12px}.kicker{margin:0;color:var(--soft);font-size:13px}
.said{margin:0;color:var(--soft)}section{background:var(--card);border:1px solid var(--line);
border-radius:10px;padding:18px 20px;margin:16px 0}.tiles{display:grid;
grid-template-columns:repeat(auto-fit,minmax(140px,1fr));gap:12px;margin:20px 0}
.tile{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:12px 16px}
.tile b{display:block;font-size:22px;font-weight:600;font-variant-numeric:tabular-nums}
.tile span{color:var(--soft);font-size:13px}.tile.good b{color:var(--complete)}
.tile.warn b{color:var(--gaps)}.tile.bad b{color:var(--missing)}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:14px}
th{font-weight:500;color:var(--soft);text-align:left;font-size:13px}
th,td{padding:6px 12px 6px 0;white-space:nowrap;border-bottom:1px solid var(--line)}
tbody tr:last-child td{border-bottom:0}.number{text-align:right;font-variant-numeric:tabular-nums}
th.number,td.number{padding:6px 0 6px 12px}.reasons{margin:12px 0 0;padding:0;list-style:none;
color:var(--soft);font-size:13px}.reasons b{color:var(--ink);font-weight:500;margin-right:6px}
.dot{display:inline-block;width:10px;height:10px;border-radius:2px;margin-right:7px;
vertical-align:-1px;background:var(--none)}.legend{margin:0 0 12px;color:var(--soft);font-size:13px}
.legend span{margin-right:16px}.none{margin:0;color:var(--soft)}
.dot.complete{background:var(--complete)}.dot.outage{background:var(--outage)}
.dot.not-served{background:var(--not-served)}.dot.gaps{background:var(--gaps)}
.dot.unknown{background:var(--unknown)}.dot.damaged{background:var(--damaged)}
.dot.missing{background:none;box-shadow:inset 0 0 0 2px var(--missing)}
rect.complete{fill:var(--complete)}rect.outage{fill:var(--outage)}
rect.not-served{fill:var(--not-served)}rect.gaps{fill:var(--gaps)}
rect.unknown{fill:var(--unknown)}rect.damaged{fill:var(--damaged)}
rect.missing{fill:none;stroke:var(--missing);stroke-width:1.6}
rect.none{fill:var(--none)}.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(400px,
1fr));gap:18px 28px}@media (max-width:480px){.cards{grid-template-columns:1fr}
}figure{margin:0;min-width:0}figcaption{display:flex;justify-content:space-between;font-size:14px;
font-weight:500;margin-bottom:6px;max-width:392px}figcaption span{color:var(--soft);font-weight:400}
svg{display:block}svg text{font-size:9.5px;fill:var(--soft)}.strip .within{fill:var(--accent)}
.strip .beyond{fill:var(--missing)}.strip .unknown{fill:var(--soft)}
.strip .ground{stroke:var(--line)}.strip .limit{stroke:var(--missing);stroke-width:1;
stroke-dasharray:3 3}.three{display:grid;grid-template-columns:repeat(auto-fit,minmax(300px,1fr));
gap:0 16px}.three section{min-width:0}.bar{display:grid;grid-template-columns:minmax(0,
11em) 1fr auto;gap:10px;align-items:center;font-size:13px;padding:3px 0}
.bar .name{overflow-wrap:anywhere}.track{background:var(--none);border-radius:3px;height:10px;
overflow:hidden}.track i{display:block;height:100%;background:var(--accent);border-radius:3px}
.bar .count{font-variant-numeric:tabular-nums;color:var(--soft)}
details{border-top:1px solid var(--line);padding:8px 0 8px 12px;border-left:3px solid var(--soft);
margin-top:6px}details.good{border-left-color:var(--complete)}
details.bad{border-left-color:var(--missing)}details.warn{border-left-color:var(--gaps)}
summary{cursor:pointer}summary b{font-weight:600}code{background:var(--code);border-radius:4px;
padding:1px 6px;font-size:12px;margin-left:8px}ol{list-style:none;margin:8px 0 0;padding:0;
font-size:13px}ol li{display:grid;grid-template-columns:8.5em 6.5em 1fr;gap:10px;padding:2px 0}
ol time,ol em{color:var(--soft)}ol em{display:block;font-style:normal}
ol b{font-weight:500}@media (max-width:600px){ol li{grid-template-columns:1fr}
}footer{color:var(--soft);font-size:13px;margin-top:20px}@media print{body{background:#fff}
section,.tile{break-inside:avoid}}
""".replace("\n", "")
