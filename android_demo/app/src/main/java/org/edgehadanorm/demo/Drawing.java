package org.edgehadanorm.demo;

import java.util.Optional;

import org.edgehadanorm.core.Phase;
import org.edgehadanorm.core.Picture;
import org.edgehadanorm.core.Request;

/** A picture on its way, or finished. Never changes; every step makes another one. */
final class Drawing {
    private final Request request;
    private final Phase phase;
    private final int done;
    private final int steps;
    private final double milliseconds;
    private final double stepMilliseconds;
    private final Optional<Picture> picture;
    private final boolean finished;

    private Drawing(Request request, Phase phase, int done, int steps, double milliseconds, double stepMilliseconds,
            Optional<Picture> picture, boolean finished) {
        this.request = request;
        this.phase = phase;
        this.done = done;
        this.steps = steps;
        this.milliseconds = milliseconds;
        this.stepMilliseconds = stepMilliseconds;
        this.picture = picture;
        this.finished = finished;
    }

    /** Nothing of it so far. */
    static Drawing of(Request request) {
        return new Drawing(request, Phase.ENCODE, 0, 0, 0, 0, Optional.empty(), false);
    }

    /** With so many steps to do. */
    Drawing of(int all) {
        return new Drawing(request, phase, done, all, milliseconds, stepMilliseconds, picture, finished);
    }

    Drawing in(Phase next) {
        return new Drawing(request, next, done, steps, milliseconds, stepMilliseconds, picture, false);
    }

    /** After one more step, which took so many milliseconds. */
    Drawing stepped(int now, double took, Picture preview) {
        return new Drawing(request, phase, now, steps, milliseconds + took, took, Optional.of(preview), false);
    }

    Drawing finished(Picture last) {
        return new Drawing(request, phase, done, steps, milliseconds, stepMilliseconds, Optional.of(last), true);
    }

    Request request() {
        return request;
    }

    Phase phase() {
        return phase;
    }

    /** Steps that are done. */
    int done() {
        return done;
    }

    /** All steps; 0 before it is known. */
    int steps() {
        return steps;
    }

    /** That the last step took. */
    double stepMilliseconds() {
        return stepMilliseconds;
    }

    /** That a step took in the mean. */
    double meanMilliseconds() {
        return done == 0 ? 0 : milliseconds / done;
    }

    /** What there is to see: a preview until it is finished. */
    Optional<Picture> picture() {
        return picture;
    }

    boolean isFinished() {
        return finished;
    }
}
