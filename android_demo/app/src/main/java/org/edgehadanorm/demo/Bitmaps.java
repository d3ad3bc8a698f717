package org.edgehadanorm.demo;

import android.content.res.Resources;
import android.graphics.Bitmap;
import android.graphics.BitmapFactory;
import android.graphics.drawable.BitmapDrawable;
import java.io.File;
import java.io.IOException;

import org.edgehadanorm.core.Picture;

/** Pictures as Android has them. */
final class Bitmaps {
    /** Pictures that are smaller are enlarged with their pixels visible, as they are. */
    private static final int SMOOTH_FROM = 128;

    private Bitmaps() {
    }

    static Bitmap of(Picture picture) {
        return Bitmap.createBitmap(picture.argb(), picture.width(), picture.height(), Bitmap.Config.ARGB_8888);
    }

    /** A picture file of a bundle. */
    static Picture read(File file) throws IOException {
        Bitmap bitmap = BitmapFactory.decodeFile(file.getPath());
        if (bitmap == null) {
            throw new IOException(file.getName() + " is no picture");
        }
        return picture(bitmap);
    }

    static Picture picture(Bitmap bitmap) {
        int[] argb = new int[bitmap.getWidth() * bitmap.getHeight()];
        bitmap.getPixels(argb, 0, bitmap.getWidth(), 0, 0, bitmap.getWidth(), bitmap.getHeight());
        return new Picture(bitmap.getWidth(), bitmap.getHeight(), argb);
    }

    /** To be drawn at any size. */
    static BitmapDrawable drawable(Resources resources, Picture picture) {
        BitmapDrawable drawable = new BitmapDrawable(resources, of(picture));
        drawable.setFilterBitmap(Math.min(picture.width(), picture.height()) >= SMOOTH_FROM);
        return drawable;
    }
}
