package org.edgehadanorm.demo;

/** Words on a screen before they are in a language: a string of the resources with its values, or a plain text. */
final class Phrase {
    static final Phrase NONE = plain("");

    private final int id;
    private final String plain;
    private final Object[] values;

    private Phrase(int id, String plain, Object... values) {
        this.id = id;
        this.plain = plain;
        this.values = values;
    }

    /** id: of R.string. values: that it is filled with. */
    static Phrase of(int id, Object... values) {
        return new Phrase(id, "", values);
    }

    /** What is the same in all languages. */
    static Phrase plain(String text) {
        return new Phrase(0, text);
    }

    /** Of R.string; 0 of a plain text. */
    int id() {
        return id;
    }

    /** The plain text; empty of a string of the resources. */
    String plain() {
        return plain;
    }

    Object[] values() {
        return values.clone();
    }
}
