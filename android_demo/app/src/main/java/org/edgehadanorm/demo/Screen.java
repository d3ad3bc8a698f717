package org.edgehadanorm.demo;

/** A part of the activity that shows the state of the session. */
interface Screen {
    void show(State state);
}
