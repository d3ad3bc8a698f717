package org.edgehadanorm.demo;

import java.util.Optional;

import org.edgehadanorm.core.Phase;
import org.edgehadanorm.core.Picture;

/** What the screen of pictures has in a state. */
final class GenerateContent {
    private final State state;
    private final boolean drawing;
    private final boolean picking;

    GenerateContent(State state) {
        this.state = state;
        drawing = state.is(State.Kind.RUNNING, State.Task.DRAW);
        picking = state.is(State.Kind.RUNNING, State.Task.PICK);
    }

    boolean canGenerate() {
        return !state.isBusy() && state.bundle().isPresent();
    }

    /** Whether it offers to cancel, in the place of to generate. */
    boolean isDrawing() {
        return drawing;
    }

    /** What there is to see: a preview or a picture. */
    Optional<Picture> picture() {
        return state.drawing().flatMap(Drawing::picture);
    }

    /** Of the picture, for who does not see it. */
    Optional<Phrase> description() {
        return state.drawing().map(now -> Phrase.of(
                now.isFinished() ? R.string.picture_of : R.string.picture_growing, now.request().prompt()));
    }

    /** The drawing that can be saved and shared. */
    Optional<Drawing> finished() {
        return state.drawing().filter(now -> now.isFinished() && !drawing);
    }

    /** As long as it draws, or reads a picture that was picked. */
    Optional<Bar> bar() {
        if (picking) {
            return Optional.of(Bar.unknown());
        }
        return state.drawing().filter(now -> drawing).map(now ->
                now.phase() == Phase.DENOISE ? Bar.of(now.done(), now.steps()) : Bar.unknown());
    }

    Phrase status() {
        if (picking) {
            return Phrase.of(R.string.picking);
        }
        if (drawing) {
            return state.drawing().map(now -> Phrase.of(name(now.phase()))).orElse(Phrase.NONE);
        }
        return state.drawing().map(now -> Phrase.of(now.isFinished() ? R.string.finished : R.string.stopped))
                .orElse(Phrase.NONE);
    }

    Phrase figures() {
        if (drawing) {
            return state.drawing().filter(now -> now.done() > 0).map(now -> Phrase.of(R.string.step_figures,
                    now.done(), now.steps(), Format.milliseconds(now.stepMilliseconds())))
                    .orElse(Phrase.NONE);
        }
        return finished().map(now -> Phrase.of(R.string.finished_figures, now.steps(),
                Format.milliseconds(now.meanMilliseconds()))).orElse(Phrase.NONE);
    }

    private static int name(Phase phase) {
        switch (phase) {
            case ENCODE_PICTURE:
                return R.string.phase_encode_picture;
            case ENCODE:
                return R.string.phase_encode;
            case PREPARE:
                return R.string.phase_prepare;
            case DENOISE:
                return R.string.phase_denoise;
            default:
                return R.string.phase_decode;
        }
    }
}
