package org.edgehadanorm.core;

import java.io.File;
import java.io.IOException;

/** Reads PNG files as the platform does. */
public interface PictureReader {
    /** Throws IOException where the file cannot be read or is no picture. */
    Picture read(File png) throws IOException;
}
