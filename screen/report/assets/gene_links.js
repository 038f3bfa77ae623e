// Pages about human genes elsewhere, of the report and of explore: nothing is asked of them until a link is clicked.
function geneLinks(geneIds, symbols) {
  const ids = geneIds.split("+").filter((id) => /^ENSG\d{11}$/.test(id));
  const sites = (id) => [
    ["Ensembl", `https://www.ensembl.org/id/${id}`],
    ["Open Targets", `https://platform.opentargets.org/target/${id}`],
    ...(ids.length === 1 ? [["DepMap", `https://depmap.org/portal/gene/${encodeURIComponent(symbols)}`]] : []),
  ];
  return ids.flatMap((id) => sites(id).map(([site, href]) => {
    const made = document.createElement("a");
    Object.assign(made, { href, target: "_blank", rel: "noopener noreferrer", textContent: `${ids.length > 1 ? `${id} ` : ""}${site} ↗` });
    return made;
  }));
}
