package org.edgehadanorm.core.text;

/** A token of a prompt. */
final class Token {
    private final int id;
    private final String text;
    private final boolean special;

    /** text: what it stands for; special: whether it was added to the prompt, as an end of text is. */
    Token(int id, String text, boolean special) {
        this.id = id;
        this.text = text;
        this.special = special;
    }

    int id() {
        return id;
    }

    String text() {
        return text;
    }

    boolean isSpecial() {
        return special;
    }
}
