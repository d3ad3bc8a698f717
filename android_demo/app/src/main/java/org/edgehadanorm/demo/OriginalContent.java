package org.edgehadanorm.demo;

import java.util.Optional;

import org.edgehadanorm.core.BundleException;
import org.edgehadanorm.core.Original;
import org.edgehadanorm.core.Picture;
import org.edgehadanorm.core.Plan;

/** What the part of the form has that says what a picture begins with, in a state. */
final class OriginalContent {
    private final State state;

    OriginalContent(State state) {
        this.state = state;
    }

    /** Why pictures of the chosen bundle cannot begin with another; NONE where they can. */
    Phrase refusal() {
        return state.bundle().filter(bundle -> !bundle.takesOriginals()).map(bundle -> Phrase.of(
                bundle.latentShape()[0] == 1 ? R.string.original_of_grey : R.string.original_of_no_encoder))
                .orElse(Phrase.NONE);
    }

    /** Whether a picture is asked for. */
    boolean asks() {
        return !picture().isPresent() && state.bundle().filter(bundle -> bundle.takesOriginals()).isPresent();
    }

    /** Whether pictures can be picked and removed. */
    boolean canChange() {
        return !state.isBusy() && state.bundle().isPresent();
    }

    /** What the next picture begins with. */
    Optional<Original> original() {
        return state.original();
    }

    Optional<Picture> picture() {
        return state.original().map(Original::picture);
    }

    /** Of what is drawn anew. */
    Optional<Picture> mask() {
        return state.original().flatMap(Original::mask);
    }

    /** The steps that are taken of a plan: all where the picture begins with noise, or cannot begin otherwise. */
    Plan taken(Plan plan, double strength) {
        try {
            return picture().isPresent() ? plan.begun(strength) : plan;
        } catch (BundleException error) {
            return plan;
        }
    }

    /** How much is drawn anew of a picture to begin with, and by which steps of a plan, or that it cannot begin so. */
    static Phrase strength(Plan plan, double strength) {
        try {
            return Phrase.of(R.string.strength_of, strength, plan.begun(strength).steps(), plan.steps());
        } catch (BundleException error) {
            return Phrase.of(R.string.strength_of_no_steps, strength);
        }
    }
}
