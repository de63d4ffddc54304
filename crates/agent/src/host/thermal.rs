//! The temperature of the processor, of <https://docs.kernel.org/hwmon/sysfs-interface.html> and
//! <https://docs.kernel.org/driver-api/thermal/sysfs-api.html>.

use std::path::{Path, PathBuf};

/// Drivers of processors' own sensors.
const CHIPS: &[&str] = &["coretemp", "k10temp", "k8temp", "zenpower", "cpu_thermal"];
/// What zones of processors are called, in part.
const ZONES: &[&str] = &["cpu", "x86_pkg", "soc", "cluster"];

/// The hottest of the processor's sensors, in °C; `None` where there is none, as in most virtual machines.
pub fn hottest(sys: &Path) -> Option<f64> {
    let chips = folders(&sys.join("class/hwmon"))
        .into_iter()
        .filter(|dir| text(&dir.join("name")).is_some_and(|name| CHIPS.contains(&name.as_str())))
        .flat_map(|dir| {
            let inputs = folders(&dir).into_iter().filter(|f| is_input(f));
            inputs.collect::<Vec<_>>()
        });
    let zones = folders(&sys.join("class/thermal"))
        .into_iter()
        .filter(|dir| text(&dir.join("type")).is_some_and(|kind| ZONES.iter().any(|z| kind.to_ascii_lowercase().contains(z))))
        .map(|dir| dir.join("temp"));
    let hottest = |files: &mut dyn Iterator<Item = PathBuf>| files.filter_map(|f| degrees(&text(&f)?)).max_by(f64::total_cmp);
    hottest(&mut { chips }).or_else(|| hottest(&mut { zones }))
}

/// `temp1_input`.
fn is_input(path: &Path) -> bool {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    name.strip_prefix("temp").is_some_and(|rest| rest.ends_with("_input"))
}

/// Thousandths of a degree; what no processor survives is a sensor that is not connected.
fn degrees(text: &str) -> Option<f64> {
    let milli: i32 = text.parse().ok()?;
    (-40_000..=150_000).contains(&milli).then(|| f64::from(milli) / 1000.0)
}

fn text(path: &Path) -> Option<String> {
    Some(std::fs::read_to_string(path).ok()?.trim().to_owned())
}

fn folders(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).map_or_else(|_| Vec::new(), |entries| entries.flatten().map(|e| e.path()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processors_hottest() {
        for (what, files, wanted) in [
            ("nothing", &[][..], None),
            (
                "an Intel server: cores, and a disk that is hotter",
                &[
                    ("hwmon/hwmon0/name", "nvme\n"),
                    ("hwmon/hwmon0/temp1_input", "70850\n"),
                    ("hwmon/hwmon1/name", "coretemp\n"),
                    ("hwmon/hwmon1/temp1_input", "48000\n"),
                    ("hwmon/hwmon1/temp2_input", "51500\n"),
                    ("hwmon/hwmon1/temp2_max", "100000\n"),
                    ("thermal/thermal_zone0/type", "x86_pkg_temp\n"),
                    ("thermal/thermal_zone0/temp", "60000\n"),
                ],
                Some(51.5),
            ),
            (
                "a Raspberry Pi",
                &[
                    ("thermal/thermal_zone0/type", "cpu-thermal\n"),
                    ("thermal/thermal_zone0/temp", "42355\n"),
                ],
                Some(42.355),
            ),
            (
                "a phone chip with a dead zone",
                &[
                    ("thermal/thermal_zone0/type", "cluster0\n"),
                    ("thermal/thermal_zone0/temp", "-274000\n"),
                    ("thermal/thermal_zone1/type", "cluster1\n"),
                    ("thermal/thermal_zone1/temp", "39000\n"),
                    ("thermal/thermal_zone2/type", "battery\n"),
                    ("thermal/thermal_zone2/temp", "90000\n"),
                ],
                Some(39.0),
            ),
            (
                "no processor's",
                &[
                    ("thermal/thermal_zone0/type", "acpitz\n"),
                    ("thermal/thermal_zone0/temp", "27800\n"),
                ],
                None,
            ),
        ] {
            let sys = tempfile::tempdir().unwrap();
            for (file, content) in files {
                let path = sys.path().join("class").join(file);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, content).unwrap();
            }
            assert_eq!(hottest(sys.path()), wanted, "{what}");
        }
    }
}
