package org.edgehadanorm.demo;

import java.util.Collections;
import java.util.List;
import java.util.Optional;
import java.util.stream.Collectors;

import org.edgehadanorm.core.Bundle;

/** What the form has of a picture's size, in a state. */
final class SizeContent {
    private final State state;
    private final List<String> sizes;

    SizeContent(State state) {
        this.state = state;
        sizes = state.bundle().map(Bundle::sizes).orElse(Collections.emptyList());
    }

    /** Whether there is something to choose. */
    boolean asks() {
        return sizes.size() > 1;
    }

    /** Whether another can be chosen now. */
    boolean canChange() {
        return !state.isBusy();
    }

    /** The sizes as people read them, such as `768 × 512`. */
    List<String> choices() {
        return sizes.stream().map(SizeContent::shown).collect(Collectors.toList());
    }

    /** The chosen one of them; empty without a bundle. */
    String chosen() {
        return state.bundle().map(bundle -> shown(bundle.size())).orElse("");
    }

    /** The size that a choice stands for, where it is another than the chosen one. */
    Optional<String> other(int choice) {
        return state.bundle().filter(bundle -> choice < sizes.size()).map(bundle -> sizes.get(choice))
                .filter(size -> !shown(size).equals(chosen()));
    }

    private static String shown(String size) {
        return size.replace("x", " × ");
    }
}
