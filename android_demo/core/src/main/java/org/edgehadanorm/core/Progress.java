package org.edgehadanorm.core;

/** How far something has come, in bytes. */
public interface Progress {
    Progress NONE = (done, total) -> { };

    /** total: -1 where it is not known before the end. */
    void at(long done, long total);
}
