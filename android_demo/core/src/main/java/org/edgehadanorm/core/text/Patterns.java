package org.edgehadanorm.core.text;

import java.util.regex.Pattern;
import java.util.regex.PatternSyntaxException;

import org.edgehadanorm.core.BundleException;

/**
 * The patterns of a tokenizer.json, which are of the Oniguruma library, as java.util.regex means the same on a phone
 * and on a desktop. Of Oniguruma's syntax it takes what tokenizers use: literals, the dot, classes, groups,
 * alternatives, quantifiers, lookahead, \s, \S, \p{..}, \P{..} and escaped punctuation.
 */
final class Patterns {
    private final String source;
    private final Part part;
    private final StringBuilder out = new StringBuilder();
    private int at;

    private Patterns(String source, Part part) {
        this.source = source;
        this.part = part;
    }

    /** The value of the key `pattern`: {"String": text} or {"Regex": expression}. */
    static Pattern of(Part owner) throws BundleException {
        Part part = owner.part("pattern");
        Pattern pattern;
        if (part.has("String")) {
            pattern = Pattern.compile(Pattern.quote(part.text("String")));
        } else {
            String regex = part.text("Regex");
            try {
                pattern = Pattern.compile(new Patterns(regex, part).translated());
            } catch (PatternSyntaxException error) {
                throw part.unknown("the pattern '" + regex + "'");
            }
        }
        part.finish();
        return pattern;
    }

    private String translated() throws BundleException {
        while (at < source.length()) {
            char c = source.charAt(at++);
            if (c == '\\') {
                out.append(escape(false));
            } else if (c == '[') {
                bracket();
            } else {
                if (c == '^' || c == '$' || c == '(' && source.startsWith("?", at) && !isPlainGroup()) {
                    throw refused();
                }
                out.append(c == '#' ? "\\#" : c == '.' ? "[^\n]" : String.valueOf(c));
            }
        }
        return out.toString();
    }

    /** Whether the group whose `?` comes next is (?:..), (?=..) or (?!..). */
    private boolean isPlainGroup() {
        return at + 1 < source.length() && ":=!".indexOf(source.charAt(at + 1)) >= 0;
    }

    private void bracket() throws BundleException {
        out.append('[');
        if (source.startsWith("^", at)) {
            out.append(source.charAt(at++));
        }
        boolean empty = true;
        while (at < source.length() && (empty || source.charAt(at) != ']')) {
            char c = source.charAt(at++);
            if (c == '[' || c == ']' || c == '&' && source.startsWith("&", at)) {
                throw refused();
            }
            out.append(c == '\\' ? escape(true) : c == '#' || c == '&' ? "\\" + c : String.valueOf(c));
            empty = false;
        }
        if (at++ >= source.length()) {
            throw refused();
        }
        out.append(']');
    }

    private String escape(boolean inside) throws BundleException {
        char c = at < source.length() ? source.charAt(at++) : 0;
        switch (c) {
            case 's':
                return inside ? Spaces.CLASS : "[" + Spaces.CLASS + "]";
            case 'S':
                if (inside) {
                    throw refused();
                }
                return "[^" + Spaces.CLASS + "]";
            case 'p':
            case 'P':
                int end = source.indexOf('}', at);
                if (!source.startsWith("{", at) || end < 0 || !source.substring(at + 1, end).matches("[A-Z][a-z]?")) {
                    throw refused();
                }
                String category = source.substring(at, end + 1);
                at = end + 1;
                return "\\" + c + category;
            case 'n':
            case 'r':
            case 't':
                return "\\" + c;
            default:
                if (c < '!' || c > '~' || Character.isLetterOrDigit(c)) {
                    throw refused();
                }
                return "\\" + c;
        }
    }

    private BundleException refused() {
        return part.unknown("the pattern '" + source + "'");
    }
}
