package org.edgehadanorm.demo;

/** A line of a table: a name and a value. */
final class Fact {
    private final Phrase name;
    private final Phrase value;

    private Fact(Phrase name, Phrase value) {
        this.name = name;
        this.value = value;
    }

    static Fact of(Phrase name, Phrase value) {
        return new Fact(name, value);
    }

    /** name: of R.string. */
    static Fact of(int name, String value) {
        return of(Phrase.of(name), Phrase.plain(value));
    }

    Phrase name() {
        return name;
    }

    Phrase value() {
        return value;
    }
}
