package org.edgehadanorm.desktop;

import java.awt.image.BufferedImage;
import java.io.File;
import java.io.IOException;
import javax.imageio.ImageIO;
import org.edgehadanorm.core.Picture;

/** Reads PNG files as a JVM does. */
public final class Png {
    private Png() {
    }

    public static Picture read(File png) throws IOException {
        BufferedImage image = ImageIO.read(png);
        int width = image.getWidth();
        int height = image.getHeight();
        return new Picture(width, height, image.getRGB(0, 0, width, height, null, 0, width));
    }
}
