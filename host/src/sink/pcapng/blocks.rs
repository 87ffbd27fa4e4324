//! Blocks of a pcapng file, as bytes: the crate `pcap-file` writes them, but for secrets, of which it knows nothing.
//!
//! Numbers of interfaces belong to one section, and a file here is one section: one [`Blocks`] is for one file.

use std::borrow::Cow;
use std::time::Duration;

use byteorder_slice::LittleEndian;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption, InterfaceTsResolution,
};
use pcap_file::pcapng::blocks::interface_statistics::{InterfaceStatisticsBlock, InterfaceStatisticsOption};
use pcap_file::pcapng::blocks::opt_common::CommonOption;
use pcap_file::pcapng::blocks::section_header::{SectionHeaderBlock, SectionHeaderOption};
use pcap_file::pcapng::blocks::unknown::UnknownBlock;
use pcap_file::pcapng::{Block, PcapNgBlock, PcapNgState};
use pcap_file::{DataLink, Endianness};

use crate::packet::{Direction, Frame, Interface, InterfaceTotals, MAX_FRAME};

/// Longest text of an option; its length has 16 bits.
const MAX_TEXT: usize = 4096;
/// Type of a Decryption Secrets Block, and of the secrets in it.
const SECRETS: u32 = 0x0000_000a;
const TLS_KEY_LOG: u32 = 0x544c_534b;

/// What the head of a file says.
#[derive(Debug, Clone, Default)]
pub struct Head {
    /// Where it was made: `x86_64`.
    pub hardware: String,
    /// `Linux 6.1.0`.
    pub os: String,
    /// `ecapture 1.0.0`.
    pub application: String,
    /// Whatever there is to say besides.
    pub comment: String,
}

/// Writes the blocks of one file.
#[derive(Debug, Default)]
pub struct Blocks {
    state: PcapNgState,
    os: String,
    /// By their numbers in the file.
    interfaces: Vec<Interface>,
}

impl Blocks {
    /// Begins the file.
    pub fn section(&mut self, head: &Head, out: &mut Vec<u8>) {
        self.os.clone_from(&head.os);
        self.interfaces.clear();
        let section = SectionHeaderBlock {
            endianness: Endianness::Little,
            options: vec![
                SectionHeaderOption::Hardware(text(&head.hardware)),
                SectionHeaderOption::OS(text(&head.os)),
                SectionHeaderOption::UserApplication(text(&head.application)),
                SectionHeaderOption::Common(CommonOption::Comment(text(&head.comment))),
            ],
            ..SectionHeaderBlock::default()
        };
        self.push(&section.into_block(), out);
    }

    /// Secrets, as lines of a key log.
    pub fn secrets<'l>(&mut self, lines: impl Iterator<Item = &'l [u8]>, out: &mut Vec<u8>) {
        let mut value = Vec::new();
        value.extend_from_slice(&TLS_KEY_LOG.to_le_bytes());
        value.extend_from_slice(&[0; 4]);
        for line in lines {
            value.extend_from_slice(line);
            value.push(b'\n');
        }
        let length = value.len() - 8;
        if length == 0 {
            return;
        }
        // What is remembered of secrets is far less.
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        if let Some(place) = value.get_mut(4..8) {
            place.copy_from_slice(&length.to_le_bytes());
        }
        value.resize(value.len().next_multiple_of(4), 0);
        // The crate works out the length by itself.
        self.push(&UnknownBlock { type_: SECRETS, length: 0, value: value.into() }.into_block(), out);
    }

    /// A frame, and before it its interface if that is new.
    pub fn packet(&mut self, frame: &Frame<'_>, comments: &[&str], missing: u64, out: &mut Vec<u8>) {
        let interface_id = self.interface(frame.interface, out);
        let data = frame.packet.data.get(..MAX_FRAME).unwrap_or(frame.packet.data);
        let way = match frame.packet.direction {
            Direction::Inbound => 1,
            Direction::Outbound => 2,
        };
        let mut options = vec![EnhancedPacketOption::Flags(way)];
        if missing > 0 {
            options.push(EnhancedPacketOption::DropCount(missing));
        }
        options.extend(comments.iter().map(|c| EnhancedPacketOption::Common(CommonOption::Comment(text(c)))));
        let block = EnhancedPacketBlock {
            interface_id,
            timestamp: Duration::from_nanos(frame.wall_ns),
            original_len: frame.packet.wire_length.max(u32::try_from(data.len()).unwrap_or(u32::MAX)),
            data: Cow::Borrowed(data),
            options,
        };
        self.push(&block.into_block(), out);
    }

    /// What came of the interfaces of this file; of others nothing is said.
    pub fn statistics(&mut self, totals: &[InterfaceTotals], wall_ns: u64, comment: Option<&str>, out: &mut Vec<u8>) {
        let known: Vec<(usize, &InterfaceTotals)> = totals
            .iter()
            .filter_map(|total| Some((self.interfaces.iter().position(|i| *i == total.interface)?, total)))
            .collect();
        for (number, total) in known {
            let passed = total.received.saturating_sub(total.dropped);
            let mut options = vec![
                InterfaceStatisticsOption::IsbIfRecv(total.received),
                InterfaceStatisticsOption::IsbFilterAccept(passed.saturating_sub(total.filtered)),
                InterfaceStatisticsOption::IsbOsDrop(total.dropped),
                InterfaceStatisticsOption::IsbUsrDeliv(passed),
            ];
            options.extend(comment.map(|c| InterfaceStatisticsOption::Common(CommonOption::Comment(text(c)))));
            let block = InterfaceStatisticsBlock {
                interface_id: u32::try_from(number).unwrap_or(u32::MAX),
                timestamp: Duration::from_nanos(wall_ns),
                options,
            };
            self.push(&block.into_block(), out);
        }
    }

    /// Interfaces so far.
    pub fn interfaces(&self) -> usize {
        self.interfaces.len()
    }

    /// Forgets the interfaces beyond so many: what said that they are there was taken out of the file again.
    pub fn keep_interfaces(&mut self, count: usize) {
        if count < self.interfaces.len() {
            self.interfaces.truncate(count);
            self.state = PcapNgState::default();
            for interface in &self.interfaces {
                self.state.update_from_block(&description(interface, &self.os).into_block());
            }
        }
    }

    /// The number of an interface in this file, which it comes into if it is new.
    pub fn interface(&mut self, interface: &Interface, out: &mut Vec<u8>) -> u32 {
        let known = self.interfaces.iter().position(|i| i == interface);
        let number = known.unwrap_or_else(|| {
            self.interfaces.push(interface.clone());
            let os = self.os.clone();
            self.push(&description(interface, &os).into_block(), out);
            self.interfaces.len() - 1
        });
        u32::try_from(number).unwrap_or(u32::MAX)
    }

    /// A block stands there whole, or not at all.
    fn push(&mut self, block: &Block<'_>, out: &mut Vec<u8>) {
        let before = out.len();
        match block.write_to::<LittleEndian, _>(&self.state, out) {
            Ok(_) => self.state.update_from_block(block),
            // It refuses what is no block, which none of these can be, and a vector takes everything.
            Err(_) => out.truncate(before),
        }
    }
}

fn description<'a>(interface: &'a Interface, os: &'a str) -> InterfaceDescriptionBlock<'a> {
    InterfaceDescriptionBlock {
        linktype: DataLink::from(u32::from(interface.link_type)),
        snaplen: u32::try_from(MAX_FRAME).unwrap_or(0),
        options: vec![
            InterfaceDescriptionOption::IfName(text(&interface.name)),
            InterfaceDescriptionOption::IfTsResol(InterfaceTsResolution::NANO),
            InterfaceDescriptionOption::IfOs(text(os)),
        ],
    }
}

/// Text of an option, as long as it can be.
fn text(text: &str) -> Cow<'_, str> {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    Cow::Borrowed(text.get(..end).unwrap_or_default())
}
