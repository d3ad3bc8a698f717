package org.edgehadanorm.core;

import java.math.BigInteger;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * JSON (RFC 8259). Values are Map&lt;String, Object&gt; in the order of the file, List&lt;Object&gt;, String, Long (or
 * BigInteger, where it does not fit) for a number without point or exponent, Double for others, Boolean, null.
 */
public final class Json {
    private static final int DEEPEST = 500;
    private static final int LONGEST_NUMBER = 4300;

    private final String text;
    private int at;
    private int depth;

    private Json(String text) {
        this.text = text;
    }

    /** Throws IllegalArgumentException, whose message says where, for what is not JSON. */
    public static Object parse(String text) {
        Json parser = new Json(text);
        Object value = parser.value();
        parser.space();
        if (parser.at < text.length()) {
            throw parser.error("the end was expected");
        }
        return value;
    }

    /** One line of JSON. Throws IllegalArgumentException for what JSON cannot say, such as NaN. */
    public static String write(Object value) {
        StringBuilder out = new StringBuilder();
        write(value, out);
        return out.toString();
    }

    private Object value() {
        space();
        switch (at < text.length() ? text.charAt(at) : 0) {
            case '{':
                return object();
            case '[':
                return list();
            case '"':
                return string();
            case 't':
                return word("true", Boolean.TRUE);
            case 'f':
                return word("false", Boolean.FALSE);
            case 'n':
                return word("null", null);
            default:
                return number();
        }
    }

    private Map<String, Object> object() {
        Map<String, Object> values = new LinkedHashMap<>();
        enter();
        if (!ends('}')) {
            do {
                space();
                String key = string();
                expect(':');
                values.put(key, value());
            } while (another('}'));
        }
        depth--;
        return values;
    }

    private List<Object> list() {
        List<Object> values = new ArrayList<>();
        enter();
        if (!ends(']')) {
            do {
                values.add(value());
            } while (another(']'));
        }
        depth--;
        return values;
    }

    private void enter() {
        at++;
        if (++depth > DEEPEST) {
            throw error("it is nested too deep");
        }
    }

    private boolean ends(char close) {
        space();
        if (at < text.length() && text.charAt(at) == close) {
            at++;
            return true;
        }
        return false;
    }

    private boolean another(char close) {
        if (ends(close)) {
            return false;
        }
        expect(',');
        return true;
    }

    private void expect(char wanted) {
        space();
        if (at >= text.length() || text.charAt(at) != wanted) {
            throw error("'" + wanted + "' was expected");
        }
        at++;
    }

    private Object word(String word, Object value) {
        if (!text.startsWith(word, at)) {
            throw error("a value was expected");
        }
        at += word.length();
        return value;
    }

    private String string() {
        if (at >= text.length() || text.charAt(at) != '"') {
            throw error("a string was expected");
        }
        int start = ++at;
        while (at < text.length() && text.charAt(at) != '"' && text.charAt(at) != '\\' && text.charAt(at) >= ' ') {
            at++;
        }
        StringBuilder out = new StringBuilder(text.substring(start, at));
        while (at < text.length() && text.charAt(at) >= ' ') {
            char c = text.charAt(at++);
            if (c == '"') {
                return out.toString();
            }
            out.append(c == '\\' ? escaped() : c);
        }
        throw error("a string does not end");
    }

    private char escaped() {
        char c = at < text.length() ? text.charAt(at++) : 0;
        int plain = "\"\\/bfnrt".indexOf(c);
        if (plain >= 0) {
            return "\"\\/\b\f\n\r\t".charAt(plain);
        }
        if (c == 'u' && at + 4 <= text.length()) {
            int code = 0;
            for (int end = at + 4; at < end; at++) {
                int digit = Character.digit(text.charAt(at), 16);
                if (digit < 0 || text.charAt(at) > 'f') {
                    throw error("four hex digits were expected");
                }
                code = code << 4 | digit;
            }
            return (char) code;
        }
        throw error("an escape was expected");
    }

    private Object number() {
        int start = at;
        skip('-');
        int whole = at;
        digits();
        if (text.charAt(whole) == '0' && at > whole + 1) {
            throw error("a number begins with 0");
        }
        boolean real = false;
        if (skip('.')) {
            digits();
            real = true;
        }
        if (skip('e') || skip('E')) {
            if (!skip('+')) {
                skip('-');
            }
            digits();
            real = true;
        }
        String found = text.substring(start, at);
        if (real) {
            return Double.valueOf(found);
        }
        if (found.length() > LONGEST_NUMBER) {
            throw error("a number is too long");
        }
        BigInteger integer = new BigInteger(found);
        return integer.bitLength() < Long.SIZE ? (Object) integer.longValue() : integer;
    }

    private boolean skip(char c) {
        if (at < text.length() && text.charAt(at) == c) {
            at++;
            return true;
        }
        return false;
    }

    private void digits() {
        int start = at;
        while (at < text.length() && text.charAt(at) >= '0' && text.charAt(at) <= '9') {
            at++;
        }
        if (at == start) {
            throw error("a value was expected");
        }
    }

    private void space() {
        while (at < text.length() && " \t\r\n".indexOf(text.charAt(at)) >= 0) {
            at++;
        }
    }

    private IllegalArgumentException error(String what) {
        return new IllegalArgumentException(what + " at character " + at);
    }

    private static void write(Object value, StringBuilder out) {
        if (value instanceof Map) {
            String separator = "{";
            for (Map.Entry<?, ?> entry : ((Map<?, ?>) value).entrySet()) {
                out.append(separator);
                quote((String) entry.getKey(), out);
                out.append(": ");
                write(entry.getValue(), out);
                separator = ", ";
            }
            out.append(separator.equals("{") ? "{}" : "}");
        } else if (value instanceof Iterable) {
            String separator = "[";
            for (Object item : (Iterable<?>) value) {
                out.append(separator);
                write(item, out);
                separator = ", ";
            }
            out.append(separator.equals("[") ? "[]" : "]");
        } else if (value instanceof CharSequence) {
            quote(value.toString(), out);
        } else if (value == null || value instanceof Boolean || isWritable(value)) {
            out.append(value);
        } else {
            throw new IllegalArgumentException("JSON has no form for " + value);
        }
    }

    private static boolean isWritable(Object value) {
        double number = value instanceof Number ? ((Number) value).doubleValue() : Double.NaN;
        return value instanceof BigInteger || !Double.isNaN(number) && !Double.isInfinite(number);
    }

    private static void quote(String text, StringBuilder out) {
        out.append('"');
        for (int i = 0; i < text.length(); i++) {
            char c = text.charAt(i);
            if (c == '"' || c == '\\') {
                out.append('\\').append(c);
            } else if (c < ' ' || Character.isSurrogate(c)) {
                out.append(String.format("\\u%04x", (int) c));
            } else {
                out.append(c);
            }
        }
        out.append('"');
    }
}
