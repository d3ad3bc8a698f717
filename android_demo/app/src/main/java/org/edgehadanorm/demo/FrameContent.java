package org.edgehadanorm.demo;

/** What is around the screens in a state. */
final class FrameContent {
    private final State state;

    FrameContent(State state) {
        this.state = state;
    }

    /** The chosen bundle, or why there is none. */
    Phrase line() {
        return state.bundle().map(bundle -> Phrase.of(R.string.bundle_line, bundle.name(), bundle.recipe()))
                .orElse(Phrase.of(state.isBusy() ? R.string.opening : R.string.no_bundle));
    }

    /** What went wrong; empty if nothing did. */
    String problem() {
        return state.message();
    }

    boolean keepsScreenOn() {
        return state.isBusy();
    }
}
