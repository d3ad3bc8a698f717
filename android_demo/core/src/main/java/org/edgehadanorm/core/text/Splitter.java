package org.edgehadanorm.core.text;

import java.util.ArrayList;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** Cuts a slice where a pattern matches. */
final class Splitter {
    /** What becomes of the matches; the names are those of tokenizer.json, in capitals. */
    enum Behavior {
        REMOVED, ISOLATED, MERGEDWITHPREVIOUS, MERGEDWITHNEXT, CONTIGUOUS
    }

    private final Pattern pattern;
    private final Behavior behavior;
    private final boolean inverted;

    /** inverted: what is between the matches counts as the matches. */
    Splitter(Pattern pattern, Behavior behavior, boolean inverted) {
        this.pattern = pattern;
        this.behavior = behavior;
        this.inverted = inverted;
    }

    /** The parts in their order, none of them empty. */
    List<Slice> split(Slice slice) {
        List<Span> spans = new ArrayList<>();
        for (Span span : spans(slice.text())) {
            Span last = spans.isEmpty() ? null : spans.get(spans.size() - 1);
            if (behavior == Behavior.REMOVED && span.matches) {
                continue;
            }
            if (last != null && joins(last, span)) {
                spans.set(spans.size() - 1, new Span(last.start, span.end, span.matches));
            } else {
                spans.add(span);
            }
        }
        List<Slice> parts = new ArrayList<>();
        for (Span span : spans) {
            if (span.start < span.end) {
                parts.add(slice.part(span.start, span.end));
            }
        }
        return parts;
    }

    /** Whether a span belongs to the part that the span before it ends. */
    private boolean joins(Span last, Span next) {
        switch (behavior) {
            case MERGEDWITHPREVIOUS:
                return next.matches && !last.matches;
            case MERGEDWITHNEXT:
                return last.matches && !next.matches;
            case CONTIGUOUS:
                return last.matches == next.matches;
            default:
                return false;
        }
    }

    private List<Span> spans(String text) {
        List<Span> spans = new ArrayList<>();
        Matcher matcher = pattern.matcher(text);
        int last = 0;
        while (matcher.find()) {
            if (last < matcher.start()) {
                spans.add(new Span(last, matcher.start(), inverted));
            }
            spans.add(new Span(matcher.start(), matcher.end(), !inverted));
            last = matcher.end();
        }
        if (last < text.length()) {
            spans.add(new Span(last, text.length(), inverted));
        }
        return spans;
    }

    /** A stretch of the text that is a match, or is between two. */
    private static final class Span {
        private final int start;
        private final int end;
        private final boolean matches;

        Span(int start, int end, boolean matches) {
            this.start = start;
            this.end = end;
            this.matches = matches;
        }
    }
}
