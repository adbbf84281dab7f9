//! What is wrong with the cluster's hosts and the paths between them.

use common::{api::DoctorView, error::Problem};

use super::Session;
use crate::{args::Format, output};

/// Shows it; the exit code is 1 if anything is.
pub async fn doctor(session: &Session) -> Result<u8, Problem> {
    let view: DoctorView = session.client.get("/api/v1/doctor").await?;
    match session.format {
        Format::Json | Format::Yaml => output::value(session.format, &view),
        Format::Name => view.findings.iter().for_each(|finding| output::line(finding.host.as_str())),
        Format::Table | Format::Wide => show(&view),
    }
    Ok(u8::from(!view.findings.is_empty()))
}

fn show(view: &DoctorView) {
    for finding in &view.findings {
        output::line(&format!("✗ {}", finding.what));
        finding.why.iter().for_each(|why| output::line(&format!("  {why}")));
        finding.fix.iter().for_each(|fix| output::line(&format!("  Fix: {fix}")));
    }
    let mark = |is_whole| if is_whole { "✓" } else { "·" };
    output::line(&format!("{} {} of {} hosts are heard", mark(view.ready == view.hosts), view.ready, view.hosts));
    let unheard = view.findings.iter().filter(|found| found.is_of_a_path()).count();
    if view.directions > 0 {
        let (mark, whole) = (mark(unheard == 0), view.directions.saturating_sub(unheard));
        output::line(&format!("{mark} {whole} of {} paths of the overlay carry packets", view.directions));
    }
}
