-- title: Kinds of answers
-- answers: What kind of gold answer do rows have?
-- section: What is in it
-- order: 250
-- chart: bars y=source x=rows color=answer_kind
-- units: rows=rows
-- needs: rows.answer
select
    source,
    case
        when answer is null or trim(answer) = '' then 'none'
        when len(choices) > 0 then 'choice'
        when regexp_full_match(trim(answer), '[-+]?[$]?[0-9][0-9,]*([.][0-9]+)?[ ]*(%|\\%)?') then 'number'
        when regexp_full_match(lower(trim(answer)), 'yes|no|true|false') then 'yes or no'
        when regexp_matches(answer, '[\\^=_{}]|[0-9][ ]*[-+*/][ ]*[0-9a-z(]') then 'expression'
        when length(answer) <= 40 then 'short text'
        else 'long text'
    end as answer_kind,
    count(*) as rows
from rows
group by source, answer_kind
order by sum(count(*)) over (partition by source) desc, source, answer_kind
