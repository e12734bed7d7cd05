//! How items are shown: as a table, as JSON or YAML, or by their names.

use std::io::{Result, Write};
use std::mem::take;

use jiff::Timestamp;

use crate::commands::inventory::item::{Item, Kind, seconds};
use crate::config::Format;
use crate::values::text::printable;

/// A column of a table: its heading, and its cell for an item.
type Column = (&'static str, fn(&Item) -> Option<String>);

/// Writes items as they come. A table's columns are as wide as the widest cell so far.
#[derive(Debug)]
pub struct Printer<W> {
    columns: Vec<Column>,
    widths: Vec<usize>,
    format: Format,
    page: Vec<Item>,
    count: usize,
    nothing: &'static str,
    to: W,
}

impl<W: Write> Printer<W> {
    /// Begins a list.
    pub fn new(kind: Kind, format: Format, to: W) -> Self {
        let columns = columns(kind, format == Format::Wide);
        let widths = vec![0; columns.len()];
        let nothing = match kind {
            Kind::Volumes => "no volumes",
            Kind::Archives => "no archives",
            Kind::Trash => "the trash is empty",
            Kind::Orphans => "no orphans",
        };
        Self { columns, widths, format, page: Vec::new(), count: 0, nothing, to }
    }

    /// Adds an item.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn add(&mut self, item: Item) -> Result<()> {
        match self.format {
            Format::Table | Format::Wide => self.page.push(item),
            Format::Name => writeln!(self.to, "{}", printable(&item.name))?,
            Format::Json => {
                let before = if self.count == 0 { "{\"items\": [\n" } else { ",\n" };
                write!(self.to, "{before}  {}", serde_json::to_string(&item)?)?;
            }
            Format::Yaml => {
                let before = if self.count == 0 { "items:\n" } else { "" };
                write!(self.to, "{before}{}", entry(&item)?)?;
            }
        }
        self.count += 1;
        Ok(())
    }

    /// Writes the rows of a table that were added since the last time.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn flush(&mut self) -> Result<()> {
        let page = take(&mut self.page);
        if page.is_empty() {
            return self.to.flush();
        }
        let is_first = self.count == page.len();
        let cell =
            |of: fn(&Item) -> Option<String>, item: &Item| printable(&of(item).unwrap_or_else(|| "-".into()));
        let rows: Vec<Vec<String>> =
            page.iter().map(|item| self.columns.iter().map(|(_, of)| cell(*of, item)).collect()).collect();
        let heads = vec![self.columns.iter().map(|(head, _)| (*head).to_owned()).collect()];
        let lines = heads.into_iter().filter(|_| is_first).chain(rows).collect::<Vec<Vec<String>>>();
        for line in &lines {
            for (width, cell) in self.widths.iter_mut().zip(line) {
                *width = (*width).max(cell.chars().count());
            }
        }
        for line in lines {
            let cells = line.iter().zip(&self.widths).map(|(cell, width)| format!("{cell:width$}"));
            writeln!(self.to, "{}", cells.collect::<Vec<_>>().join("   ").trim_end())?;
        }
        self.to.flush()
    }

    /// Ends the list, and returns where it was written.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn end(mut self) -> Result<W> {
        self.flush()?;
        match (self.format, self.count) {
            (Format::Json, 0) => writeln!(self.to, "{{\"items\": []}}")?,
            (Format::Json, _) => writeln!(self.to, "\n]}}")?,
            (Format::Yaml, 0) => writeln!(self.to, "items: []")?,
            // Beside the list, for who reads it with another program.
            (Format::Table | Format::Wide, 0) => writeln!(std::io::stderr(), "{}", self.nothing)?,
            _ => {}
        }
        Ok(self.to)
    }
}

/// Writes an item as an entry of a list in YAML.
fn entry(item: &Item) -> Result<String> {
    let yaml = serde_saphyr::to_string(item).map_err(std::io::Error::other)?;
    let indented = yaml.trim_end().replace('\n', "\n  ");
    Ok(format!("- {indented}\n"))
}

fn columns(kind: Kind, is_wide: bool) -> Vec<Column> {
    let name: Column = ("NAME", |item| Some(item.name.clone()));
    let claim: Column = ("CLAIM", |item| Some(format!("{}/{}", item.namespace.as_ref()?, item.claim.as_ref()?)));
    let class: Column = ("CLASS", |item| item.class.clone());
    let export: Column = ("EXPORT", |item| Some(item.export.clone()));
    let directory: Column = ("DIRECTORY", |item| item.directory.clone());
    let volume: Column = ("VOLUME", |item| item.volume.clone());
    let cluster: Column = ("CLUSTER", |item| item.cluster.clone());
    let requested: Column = ("REQUESTED", |item| item.requested.clone());
    let used: Column = ("USED", |item| item.used.map(bytes));
    let status: Column = ("STATUS", |item| item.status.clone());
    let fate: Column = ("ON DELETE", |item| item.fate.clone());
    let at: Column = ("SINCE", |item| item.at.map(time));
    let kept: Column = ("KEPT UNTIL", |item| item.kept_until.map(time));
    let (mut narrow, wide): (Vec<Column>, Vec<Column>) = match kind {
        Kind::Volumes => (vec![name, claim, class, export, directory, requested, used, status, fate], vec![at]),
        Kind::Archives => {
            (vec![name, export, claim, class, requested, used, at], vec![status, kept, volume, directory, cluster])
        }
        Kind::Trash => {
            (vec![name, export, claim, requested, used, status, at, kept], vec![volume, directory, class, cluster])
        }
        Kind::Orphans => (vec![name, export, claim, used, status, at], vec![volume, class, requested, cluster]),
    };
    if is_wide {
        narrow.extend(wide);
    }
    narrow
}

fn time(time: Timestamp) -> String {
    seconds(time).to_string()
}

/// Writes a number of bytes as Kubernetes does, with one place behind the point.
fn bytes(bytes: u64) -> String {
    const UNITS: [(&str, u32); 4] = [("Ti", 40), ("Gi", 30), ("Mi", 20), ("Ki", 10)];
    let Some((unit, shift)) = UNITS.into_iter().find(|(_, shift)| bytes >> shift > 0) else {
        return bytes.to_string();
    };
    let tenths = (u128::from(bytes) * 10) >> shift;
    format!("{}.{}{unit}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(name: &str) -> Item {
        Item {
            name: name.into(),
            export: "default".into(),
            namespace: Some("shop".into()),
            claim: Some("data".into()),
            used: Some(3 << 19),
            at: Timestamp::from_second(0).ok(),
            ..Item::default()
        }
    }

    fn shown(format: Format, pages: &[&[&str]]) -> String {
        let mut printer = Printer::new(Kind::Archives, format, Vec::new());
        for page in pages {
            for name in *page {
                printer.add(item(name)).unwrap();
            }
            printer.flush().unwrap();
        }
        String::from_utf8(printer.end().unwrap()).unwrap()
    }

    #[test]
    fn a_table_has_its_heading_once_and_no_control_characters() {
        let text = shown(Format::Table, &[&["a\u{1b}[1m", "b"], &["c"]]);
        let expected = [
            "NAME    EXPORT    CLAIM       CLASS   REQUESTED   USED    SINCE",
            "a\u{fffd}[1m   default   shop/data   -       -           1.5Mi   1970-01-01T00:00:00Z",
            "b       default   shop/data   -       -           1.5Mi   1970-01-01T00:00:00Z",
            "c       default   shop/data   -       -           1.5Mi   1970-01-01T00:00:00Z",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
        assert_eq!(shown(Format::Table, &[]), "");
    }

    #[test]
    fn what_programs_read_has_items_and_nothing_that_is_not_known() {
        for pages in [&[][..], &[&["a"][..]], &[&["a", "b\n\""][..], &["c"]]] {
            let json: serde_json::Value = serde_json::from_str(&shown(Format::Json, pages)).unwrap();
            let yaml: serde_json::Value = serde_saphyr::from_str(&shown(Format::Yaml, pages)).unwrap();
            let names: Vec<&str> = pages.concat();
            let found: Vec<&str> =
                json["items"].as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap()).collect();
            assert_eq!((found, &yaml), (names, &json));
        }
        let json: serde_json::Value = serde_json::from_str(&shown(Format::Json, &[&["a"]])).unwrap();
        let expected = serde_json::json!({
            "name": "a", "export": "default", "namespace": "shop", "claim": "data", "used": 3 << 19,
            "at": "1970-01-01T00:00:00Z",
        });
        assert_eq!(json["items"][0], expected);
        assert_eq!(shown(Format::Name, &[&["a", "b"]]), "a\nb\n");
    }

    #[test]
    fn bytes_are_written_as_people_read_them() {
        for (number, expected) in
            [(0, "0"), (1023, "1023"), (1024, "1.0Ki"), (1 << 40, "1.0Ti"), (u64::MAX, "16777215.9Ti")]
        {
            assert_eq!(bytes(number), expected);
        }
    }
}
