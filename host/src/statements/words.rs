//! Words of MySQL and MariaDB: those that are reserved, others that statements are made of, functions.
//!
//! Names of tables differ by case there, so that only words that are no names can be put in lower case. One that is missing
//! here costs an entry of its own where programs write it in two ways; one too many could make one of two tables.

use std::sync::LazyLock;

const WORDS: &str = "
accessible add after against all alter always analyze and any as asc asensitive auto_increment avg before begin between bigint
binary bit bit_and bit_or bit_xor blob bool boolean both btree by cache call cascade case cast change char char_length
character check close coalesce collate column columns commit committed concat concat_ws condition connection_id constraint
continue convert count create cross cube curdate current current_date current_time current_timestamp current_user cursor
curtime database databases date date_add date_format date_sub datediff datetime day day_hour day_microsecond day_minute
day_second deallocate dec decimal declare default delayed delete desc describe deterministic distinct distinctrow div do
double drop dual dumpfile duplicate each else elseif end enum escape escaped every execute exists exit explain extended
extract false fetch first float float4 float8 flush following for force foreign from from_unixtime full fulltext function
generated get global grant grants greatest group group_concat grouping groups having hex high_priority hour hour_microsecond
hour_minute hour_second identified if ifnull ignore in index infile inner inout insensitive insert instr int int1 int2 int3
int4 int8 integer intersect interval into is isnull isolation iterate join json json_array json_arrayagg json_contains
json_extract json_object json_objectagg json_set json_table json_unquote key keys kill lag last_insert_id lateral lead leading
least leave left length like limit linear lines linestring load local localtime localtimestamp lock locked long longblob
longtext loop low_priority lower lpad ltrim match max maxvalue md5 mediumblob mediumint mediumtext merge middleint min minute
minute_microsecond minute_second mod modifies modify month national natural nchar next no no_write_to_binlog none not now
nowait null nullif numeric of off offset on only optimize option optionally or order ordinality out outer outfile over
partition partitions pow preceding precision prepare prev primary procedure purge quarter rand range rank read reads real
recursive redundant references regexp release rename repeat repeatable replace require reset resignal restrict return
returning returns revoke right rlike rollback rollup round routine row row_count row_format row_number rows rpad rtrim
savepoint schema schemas second second_microsecond select sensitive separator serializable session set sha1 sha2 show signal
signed skip sleep smallint some spatial specific sql sql_big_result sql_calc_found_rows sql_no_cache sql_small_result
sqlexception sqlstate sqlwarning ssl start starting statement status std stddev stop stored straight_join substr substring
substring_index sum sysdate table tables tablespace temporary terminated text then time time_to_sec timediff timestamp
timestampadd timestampdiff tinyblob tinyint tinytext to trailing transaction trigger triggers trim true truncate unbounded
uncommitted undo unhex union unique unix_timestamp unknown unlock unsigned until update upper usage use using utc_date
utc_time utc_timestamp uuid value values var_pop var_samp varbinary varchar varcharacter variables variance varying view
virtual warnings week weekday when where while window with write xa xor year year_month zerofill
";

/// By the last five bits of the first letter, which are the same in both cases.
static BY_LETTER: LazyLock<[Vec<&'static str>; 32]> = LazyLock::new(|| {
    let mut all = [const { Vec::new() }; 32];
    for word in WORDS.split_whitespace() {
        if let Some(some) = all.get_mut(letter(word.as_bytes())) {
            some.push(word);
        }
    }
    all
});

fn letter(word: &[u8]) -> usize {
    usize::from(word.first().copied().unwrap_or(0) & 31)
}

/// Whether it is one of them, however it is written.
pub fn is_word(text: &[u8]) -> bool {
    let some = BY_LETTER.get(letter(text));
    some.is_some_and(|some| some.iter().any(|word| word.as_bytes().eq_ignore_ascii_case(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_known_however_they_are_written() {
        for word in ["select", "SELECT", "Count", "utc_DATE", "zerofill"] {
            assert!(is_word(word.as_bytes()), "{word}");
        }
        for name in ["orders", "Users", "t", "", "selects", "_select", "\u{e9}"] {
            assert!(!is_word(name.as_bytes()), "{name}");
        }
        let all: Vec<&str> = WORDS.split_whitespace().collect();
        assert!(
            all.is_sorted()
                && all
                    .iter()
                    .all(|word| word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'))
        );
    }
}
